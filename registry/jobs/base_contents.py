"""What a job is pinned to of a base, and what is in it: the first is compared while a job is accepted, the second is read
and computed with beforehand, while nobody waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from registry.catalog.bases.finding import WHOLE, tensors_of
from registry.catalog.models import NamedBase
from registry.db.database import Database
from registry.db.stored_json import table


class ChangedError(Exception):
    """Something that a job was pinned to is not what it was: pin it again."""


@dataclass(frozen=True)
class PinnedBase:
    """A base as a namespace knows it: equal to another as long as nothing that is said about it there has changed."""

    #: Of what the namespace says, with the time of its name and its edition. A key alone does not tell: SQLite gives the
    #: key of a removed row to the next one.
    pk: int
    named_at: datetime
    edition: int
    #: Of the fingerprint.
    base_pk: int
    fingerprint: str
    id: str
    revision: str | None

    @classmethod
    def of(cls, row: NamedBase) -> PinnedBase:
        """Return what a job is pinned to of a base."""
        return cls(
            pk=row.pk,
            named_at=row.named_at,
            edition=row.edition,
            base_pk=row.base_pk,
            fingerprint=row.base.fingerprint,
            id=row.id,
            revision=row.revision,
        )


@dataclass(frozen=True)
class BaseContents:
    """What is known about the model itself: as large as the names of all its tensors."""

    id: str
    size_bytes: int
    config: dict[str, Any]
    #: The shape of each tensor, by name; {} if nobody has said them.
    tensors: dict[str, list[int]]


def contents_of(db: Database, pinned: PinnedBase) -> BaseContents:
    """Read what is known about a base. Raises ChangedError if it isn't as it was pinned any more."""
    with db.read() as session:
        row = session.scalars(select(NamedBase).where(NamedBase.pk == pinned.pk).options(*WHOLE)).first()
        if row is None or PinnedBase.of(row) != pinned:
            raise ChangedError
        return BaseContents(row.id, row.size_bytes, table(row.config), tensors_of(row))
