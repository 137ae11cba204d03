"""Aliases as they are shown."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select

from registry.catalog.models import Adapter, Alias, AliasMoveRow, Version
from registry.catalog.versions.finding import exact_ref
from sdk.schemas.aliases import AliasView


def last_move() -> ColumnElement[int | None]:
    """The key of the last move of each alias of a query."""
    same = (AliasMoveRow.adapter_pk == Alias.adapter_pk, AliasMoveRow.alias == Alias.name)
    return select(func.max(AliasMoveRow.pk)).where(*same).correlate(Alias).scalar_subquery()


def present_alias(
    adapter: Adapter,
    alias: Alias,
    version: Version,
    *,
    protected: bool,
    move: int,
    decision: str | None,
    moved: bool | None = None,
) -> AliasView:
    """Return an alias as it is sent."""
    return AliasView(
        adapter=adapter.name,
        alias=alias.name,
        ref=exact_ref(version),
        number=version.number or 0,
        protected=protected,
        moved_at=alias.moved_at,
        moved_by=alias.moved_by,
        move=move,
        decision=decision,
        moved=moved,
    )
