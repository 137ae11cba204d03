"""What datasets are called, for pages that know their digests."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.datasets.models import DatasetNumber
from registry.db.database import Database
from registry.principal import Principal

#: How many names are read: a dataset may be given any number.
_MOST = 1000


class DatasetNames:
    """The service that says what datasets are called."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, digests: Collection[str], *, who: Principal) -> dict[str, str]:
        """Return a name of each of these datasets, by digest, if the caller may see one."""
        if not digests:
            return {}
        with self._db.read() as session:
            return names_of(session, digests, who)


def names_of(session: Session, digests: Collection[str], who: Principal) -> dict[str, str]:
    """Return a name of each of these datasets, `NAME@v2`, if the caller may see one.

    >>> names_of(None, [], None)
    {}
    """
    if not digests:
        return {}
    columns = (DatasetNumber.digest, DatasetNumber.name, func.max(DatasetNumber.number))
    of = (DatasetNumber.digest.in_(sorted(digests)), who.within(DatasetNumber.namespace))
    named = select(*columns).where(*of).group_by(DatasetNumber.digest, DatasetNumber.name).order_by(DatasetNumber.name)
    found: dict[str, str] = {}
    for digest, name, number in session.execute(named.limit(_MOST)):
        found.setdefault(digest, f"{name}@v{number}")
    return found
