"""What a job is pinned to of a base, and what is in it: the first is compared while a job is accepted, the second is read
and computed with beforehand, while nobody waits for it.

How a base is stored is checked against what a job asks for when it is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from registry.catalog.bases.finding import WHOLE, tensors_of
from registry.catalog.models import NamedBase
from registry.db.database import Database
from registry.db.stored_json import table
from registry.errors import Invalid, InvalidBase
from sdk.lora.stored_quantization import StoredQuantizationError, stored_recipe
from sdk.schemas.lora_config import QuantizationRecipe


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


def require_fitting(base: BaseContents | None, fits: Callable[[QuantizationRecipe | None], None]) -> bool:
    """Return whether a base is stored in 4 bits, after `fits` has checked the request against how it is stored.

    `fits` raises StoredQuantizationError. If nobody has registered the base yet, the worker will find out. Raises
    InvalidBase for a base that can't be used at all, Invalid for a request that its weights don't allow.
    """
    if base is None:
        return False
    try:
        recipe = stored_recipe(base.config, base.tensors)
        fits(recipe)
    except StoredQuantizationError as error:
        refused = InvalidBase if error.param == "base" else Invalid
        raise refused(f"base {base.id} {error}", param=error.param) from error
    return recipe is not None
