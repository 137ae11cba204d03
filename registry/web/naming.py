"""What pages call a dataset: by a name that the reader may know, or by its digest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from registry.datasets.finding import first_names
from registry.db.database import Database
from registry.principal import Principal


@dataclass(frozen=True)
class DatasetNames:
    """The names of some datasets, by digest."""

    names: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, digest: str) -> str:
        """Return what a dataset is called: "heldout@v2 (3f1a5c0d9e2b)", or the beginning of its digest."""
        name = self.names.get(digest)
        return digest[:12] if name is None else f"{name} ({digest[:12]})"


def names_of_datasets(session: Session, digests: Collection[str], who: Principal) -> DatasetNames:
    """Return the names of these datasets that the caller may know."""
    return DatasetNames(first_names(session, digests, who) if digests else {})


class NamedDatasets:
    """The service that says what datasets are called, where nothing else of them is read."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, digests: Collection[str], *, who: Principal) -> Mapping[str, str]:
        """Return the first name, `NAME@v2`, of each of these datasets that the caller may know, by digest."""
        if not digests:
            return {}
        with self._db.read() as session:
            return first_names(session, digests, who)
