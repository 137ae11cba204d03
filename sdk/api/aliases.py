"""Aliases: names that are moved between versions of an adapter, and who may move them."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, pages
from sdk.schemas.aliases import (
    AliasMove,
    AliasMoveView,
    AliasRemoval,
    AliasRollback,
    AliasView,
    Protection,
    ProtectionView,
)


def move(transport: Transport, change: AliasMove) -> AliasView:
    """Point an alias at a version. Raises NotFound, NotAllowed, Conflict."""
    return transport.call("PUT", "/aliases", AliasView, body=change)


def of_adapter(transport: Transport, adapter: str) -> list[AliasView]:
    """Return the aliases of an adapter. Raises NotFound."""
    return transport.call("GET", "/aliases", list[AliasView], params={"adapter": adapter})


def roll_back(transport: Transport, rollback: AliasRollback) -> AliasView:
    """Point an alias back at the version that it named before its last move. Raises Conflict."""
    return transport.call("POST", "/aliases/rollback", AliasView, body=rollback)


def remove(transport: Transport, removal: AliasRemoval) -> None:
    """Remove an alias; its history stays. Raises NotFound, NotAllowed, Conflict."""
    transport.call("POST", "/aliases/remove", type(None), body=removal)


def history(transport: Transport, adapter: str, *, alias: str | None = None) -> Iterator[AliasMoveView]:
    """Yield the moves of an adapter's aliases, or of one, newest first."""
    return pages(transport, "/aliases/history", AliasMoveView, params={"adapter": adapter, "alias": alias})


def protected(transport: Transport) -> list[ProtectionView]:
    """Return the aliases that only promoters may move."""
    return transport.call("GET", "/aliases/protected", list[ProtectionView])


def protect(transport: Transport, protection: Protection) -> ProtectionView:
    """Let only promoters move an alias. Raises NotAllowed."""
    return transport.call("POST", "/aliases/protect", ProtectionView, body=protection)


def unprotect(transport: Transport, protection: Protection) -> None:
    """Let every writer move an alias again. Raises NotFound, NotAllowed."""
    transport.call("POST", "/aliases/unprotect", type(None), body=protection)
