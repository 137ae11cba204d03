"""Aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.catalog.aliases.service import Aliases
from registry.catalog.parameters import Adapter
from registry.http.routes import Admin, PageOf, Reader, room, service
from sdk.schemas.aliases import AliasMoveView, AliasView, Protection, ProtectionView
from sdk.schemas.wire import Page

router = room("", "catalog")

AliasesDep = Annotated[Aliases, service(Aliases)]


@router.get("/aliases")
def list_aliases(adapter: Adapter, aliases: AliasesDep, who: Reader) -> list[AliasView]:
    """The aliases of an adapter."""
    return aliases.list(adapter=adapter, who=who)


@router.get("/aliases/history")
def list_alias_moves(
    adapter: Adapter,
    aliases: AliasesDep,
    who: Reader,
    page: PageOf,
    alias: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[AliasMoveView]:
    """The moves of an adapter's aliases, newest first."""
    return aliases.history(adapter=adapter, alias=alias, who=who, **page)


@router.get("/aliases/protected")
def list_protected(aliases: AliasesDep, who: Reader) -> list[ProtectionView]:
    """The aliases that only promoters may move."""
    return aliases.protections(who=who)


@router.post("/aliases/protect")
def protect_alias(body: Protection, aliases: AliasesDep, who: Admin) -> ProtectionView:
    """Let only promoters move an alias."""
    return aliases.protect(scope=body.scope, alias=body.alias, who=who)


@router.post("/aliases/unprotect", status_code=204, response_class=Response)
def unprotect_alias(body: Protection, aliases: AliasesDep, who: Admin) -> None:
    """Let every writer move an alias again."""
    aliases.unprotect(scope=body.scope, alias=body.alias, who=who)
