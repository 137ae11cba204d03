"""Signed statements of what aliases name."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.http.routes import Reader, Writer, room, service
from registry.promotion.statements import Statements
from sdk.schemas.statements import SignedStatement, SignedStatementView, StatedAlias

router = room("/aliases", "promotion")

StatementsDep = Annotated[Statements, service(Statements)]


@router.put("/statement")
def state_alias(body: SignedStatement, statements: StatementsDep, who: Writer) -> SignedStatementView:
    """Hand in a signed statement of what an alias names now; it replaces the one by the same key."""
    return statements.hand_in(signed=body, who=who)


@router.get("/statements")
def list_statements(
    adapter: Annotated[str, Query(max_length=1000, examples=["team/code-review"])],
    alias: Annotated[str, Query(max_length=64, examples=["production"])],
    statements: StatementsDep,
    who: Reader,
) -> StatedAlias:
    """What an alias names now, and what its signers have stated of it; only their public keys can tell whether that is
    genuine.
    """
    return statements.about(adapter=adapter, alias=alias, who=who)
