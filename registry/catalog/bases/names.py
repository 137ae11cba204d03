"""What a base's name means: one base, or nothing. The only place where a name, or digits of a fingerprint, becomes one.

A namespace says what its own ids mean: if it has given the same id to several bases, the one named last is meant. Among
namespaces none comes first, not even one's own before what is published for all: a name that means different bases is
refused, and the refusal says how to name each of them exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import ColumnElement, Select, Subquery, case, func, select
from sqlalchemy.orm import Session

from registry.catalog.models import BaseModelRow, NamedBase
from registry.errors import Invalid
from registry.principal import EVERYWHERE

_FINGERPRINT, _SHORTENED = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{12,63}")
#: If several namespaces know the same base, it is taken as the first of them knows it: before what is published for all,
#: as one that says so itself.
NEAREST = (case((NamedBase.namespace == EVERYWHERE, 1), else_=0), NamedBase.named_at.desc(), NamedBase.pk.desc())
#: How many bases a refusal lists.
_LISTED = 3


BaseNamespace = Annotated[
    str | None, Field(max_length=64, description="The namespace whose base is meant by a name; `*` as `published`.")
]
IsPublished = Annotated[bool, Field(description="The base that is published for all is meant by a name.")]


@dataclass(frozen=True)
class Whose:
    """Whose base a caller means by a name: what one namespace calls so, or what is published for all under it. Neither:
    whatever counts there. Raises Invalid for both.
    """

    namespace: str | None = None
    published: bool = False

    def __post_init__(self) -> None:
        if self.published and self.namespace not in (None, EVERYWHERE):
            raise Invalid(
                f"a base of the namespace {self.namespace[:64]!r} is not the published one; give base_namespace or published",
                param="published",
            )

    @property
    def only(self) -> str | None:
        """The only namespace whose names count, as rows have it; None: each that counts there."""
        return EVERYWHERE if self.published else self.namespace

    @property
    def shown(self) -> str:
        """The end of a sentence about a base of this name."""
        if self.only is None:
            return ""
        return " published for all" if self.only == EVERYWHERE else f" of the namespace {self.only!r}"


#: Whatever counts there.
ANYBODYS = Whose()


def is_digits(name: str) -> bool:
    """Whether a name would be read as a fingerprint, or as the first digits of one."""
    return _FINGERPRINT.fullmatch(name) is not None or _SHORTENED.fullmatch(name) is not None


def meaning_of(
    session: Session, name: str, within: ColumnElement[bool], *, options: tuple[Any, ...] = ()
) -> NamedBase | None:
    """Return the base that `name`, an id or at least 12 digits of a fingerprint, means in the namespaces `within`, as
    the nearest of them knows it; None if it means nothing there.

    Raises Invalid if it means different bases there.
    """
    if _FINGERPRINT.fullmatch(name):
        # It means one base, so nothing has to be compared: jobs and versions are pinned to it.
        exact = select(NamedBase).where(NamedBase.base_pk.in_(_fitting(name)), within).order_by(*NEAREST).limit(1)
        return session.scalars(exact.options(*options)).first()
    meant = _meanings(name, within).subquery()
    nearest = (
        # The first and the last key of all of them, beside the one that is taken. Nothing large is read before that.
        select(
            meant.c.pk, func.min(meant.c.base_pk).over().label("first"), func.max(meant.c.base_pk).over().label("last")
        )
        .order_by(_published(meant).desc(), meant.c.named_at.desc(), meant.c.pk.desc())
        .limit(1)
        .subquery()
    )
    query = select(NamedBase, nearest.c.first, nearest.c.last).join(nearest, nearest.c.pk == NamedBase.pk)
    found = session.execute(query.options(*options)).first()
    if found is None:
        return None
    row, first, last = found
    if first != last:
        raise _ambiguous(session, name, meant)
    meaning: NamedBase = row
    return meaning


def namespaces_meaning(session: Session, name: str, within: ColumnElement[bool]) -> list[str]:
    """The namespaces among those `within` in which a name means a base, sorted."""
    meant = _meanings(name, within).subquery()
    return list(session.scalars(select(meant.c.namespace).distinct().order_by(meant.c.namespace)))


def _published(meant: Subquery) -> ColumnElement[int]:
    """0 for a base that is published for all, 1 for one of a namespace."""
    return case((meant.c.namespace == EVERYWHERE, 0), else_=1)


def _meanings(name: str, within: ColumnElement[bool]) -> Select[int, int, str, datetime]:
    """What a name means: one row for each namespace that has such an id, or for each base there with such digits."""
    columns = (NamedBase.pk, NamedBase.base_pk, NamedBase.namespace, NamedBase.named_at)
    if is_digits(name):
        return select(*columns).where(NamedBase.base_pk.in_(_fitting(name)), within)
    newest = (NamedBase.named_at.desc(), NamedBase.pk.desc())
    place = func.row_number().over(partition_by=NamedBase.namespace, order_by=newest).label("place")
    named = select(*columns, place).where(NamedBase.id == name, within).subquery()
    return select(named).where(named.c.place == 1)


def _fitting(digits: str) -> Select[int]:
    """The keys of the bases with a fingerprint, or with one that begins with these digits."""
    of = BaseModelRow.fingerprint
    # A range of the index; "g" comes after every digit.
    fits = of == digits if _FINGERPRINT.fullmatch(digits) else of.between(digits, f"{digits}g")
    return select(BaseModelRow.pk).where(fits)


def _ambiguous(session: Session, name: str, meant: Subquery) -> Invalid:
    """Return the refusal of a name that means different bases, which lists them, the published one first."""
    place = func.row_number().over(partition_by=meant.c.base_pk, order_by=(_published(meant), meant.c.namespace))
    each = select(meant.c.pk, _published(meant).label("rank"), meant.c.namespace, place.label("place")).subquery()
    query = (
        select(NamedBase)
        .join(each, each.c.pk == NamedBase.pk)
        .where(each.c.place == 1)
        .order_by(each.c.rank, each.c.namespace, NamedBase.pk)
        .limit(_LISTED + 1)
    )
    rows = session.scalars(query).all()
    listed = "; ".join(_listed(row) for row in rows[:_LISTED])
    more = " and others" if len(rows) > _LISTED else ""
    digits = "more digits" if is_digits(name) else "its fingerprint"
    return Invalid(
        f"{name[:200]!a} means different bases ({listed}{more}); give {digits}, or say whose is meant: --published, or "
        "--base-namespace NAMESPACE",
        param="base",
    )


def _listed(row: NamedBase) -> str:
    whose = "published" if row.namespace == EVERYWHERE else f"of the namespace {row.namespace!r}"
    revision = "no revision" if row.revision is None else f"revision {row.revision[:40]!a}"
    return f"{row.base.fingerprint[:12]} {whose}, {revision}"
