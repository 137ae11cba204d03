"""Moves of aliases, and the decisions about them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from registry.http.routes import PageOf, Promoter, Reader, Writer, room, service, written
from registry.promotion.decisions import Decisions
from registry.promotion.gate import Gate
from registry.promotion.turns import decided
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback, AliasView
from sdk.schemas.decisions import Decision, PromotionCheck
from sdk.schemas.wire import Page

router = room("", "promotion")

GateDep = Annotated[Gate, service(Gate)]
DecisionsDep = Annotated[Decisions, service(Decisions)]


@router.put("/aliases", response_model=AliasView)
async def move_alias(body: AliasMove, gate: GateDep, who: Writer) -> Response:
    """Point an alias at a version by compare-and-set, if all rules of its policies pass."""
    return written(await decided(gate.move, move=body, who=who), 200)


@router.post("/aliases/rollback", response_model=AliasView)
async def rollback_alias(body: AliasRollback, gate: GateDep, who: Writer) -> Response:
    """Point an alias back at what it named before its last move."""
    return written(await decided(gate.rollback, rollback=body, who=who), 200)


@router.post("/aliases/remove", status_code=204, response_class=Response)
async def remove_alias(body: AliasRemoval, gate: GateDep, who: Writer) -> None:
    """Remove an alias; its history stays."""
    await decided(gate.remove, removal=body, who=who)


@router.post("/promotions/check", response_model=Decision)
async def check_promotion(body: PromotionCheck, gate: GateDep, who: Promoter) -> Response:
    """Decide whether an alias would move to a version, by its policies, without moving it."""
    return written(await decided(gate.check, check=body, who=who), 200)


@router.get("/decisions")
def list_decisions(
    adapter: Annotated[str, Query(max_length=1000, examples=["team/code-review"])],
    decisions: DecisionsDep,
    who: Reader,
    page: PageOf,
    alias: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[Decision]:
    """What was decided about the aliases of an adapter, newest first."""
    return decisions.list(adapter=adapter, alias=alias, who=who, **page)


@router.get("/decisions/{ident}")
def get_decision(ident: Annotated[str, Path(max_length=64)], decisions: DecisionsDep, who: Reader) -> Decision:
    """One decision, with what each rule found; without what the caller may not see."""
    return decisions.show(ident, who=who)
