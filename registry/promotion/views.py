"""Moves of aliases, and the decisions about them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from registry.http.routes import Writer, room, service
from registry.promotion.gate import Gate
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback, AliasView

router = room("", "promotion")

GateDep = Annotated[Gate, service(Gate)]


@router.put("/aliases")
def move_alias(body: AliasMove, gate: GateDep, who: Writer) -> AliasView:
    """Point an alias at a version by compare-and-set."""
    return gate.move(move=body, who=who)


@router.post("/aliases/rollback")
def rollback_alias(body: AliasRollback, gate: GateDep, who: Writer) -> AliasView:
    """Point an alias back at what it named before its last move."""
    return gate.rollback(rollback=body, who=who)


@router.post("/aliases/remove", status_code=204, response_class=Response)
def remove_alias(body: AliasRemoval, gate: GateDep, who: Writer) -> None:
    """Remove an alias; its history stays."""
    gate.remove(removal=body, who=who)
