"""Aliases: names that are moved between versions of an adapter, and who may move them."""

from __future__ import annotations

import builtins

from sdk.api.transport import Routes, Transport, pages
from sdk.given_values import alias_change, build
from sdk.names import check_alias, check_name
from sdk.notebook.table_list import TableList
from sdk.schemas.aliases import (
    AliasMove,
    AliasMoveView,
    AliasRemoval,
    AliasRollback,
    AliasView,
    Protection,
    ProtectionView,
)

#: Where a policy stands, a verdict reads the scores of each row, and datasets that share rows.
JUDGING_S = 300.0


def move(transport: Transport, change: AliasMove) -> AliasView:
    """Point an alias at a version. Raises NotFound, NotAllowed, Conflict."""
    return transport.call("PUT", "/aliases", AliasView, body=change, timeout_s=JUDGING_S)


def roll_back(transport: Transport, rollback: AliasRollback) -> AliasView:
    """Point an alias back at the version that it named before its last move. Raises Conflict."""
    return transport.call("POST", "/aliases/rollback", AliasView, body=rollback, timeout_s=JUDGING_S)


class AliasesAPI(Routes):
    """Aliases of adapters, and which of them are protected. Called, it lists those of an adapter."""

    def __call__(self, adapter: str) -> builtins.list[AliasView]:
        """The aliases of an adapter. Raises InvalidName, NotFound."""
        return TableList(
            self._transport.call("GET", "/aliases", list[AliasView], params={"adapter": check_name(adapter)})
        )

    list = __call__

    def remove(
        self,
        adapter: str,
        alias: str,
        *,
        expect: str | int | None = None,
        reason: str = "",
        override: bool = False,
    ) -> None:
        """Remove an alias; its history stays. Where a policy asks for approvals, these must be there for what it names.

        Raises NotFound, NotAllowed, Conflict, PromotionRefused.
        """
        removal = build(AliasRemoval, **alias_change(adapter, alias, expect, reason, override=override))
        self._transport.call("POST", "/aliases/remove", type(None), body=removal)

    def history(self, adapter: str, alias: str | None = None) -> builtins.list[AliasMoveView]:
        """The moves of all or one of an adapter's aliases, newest first."""
        params = {"adapter": check_name(adapter), "alias": None if alias is None else check_alias(alias)}
        return TableList(pages(self._transport, "/aliases/history", AliasMoveView, params=params))

    def protect(self, scope: str, alias: str) -> ProtectionView:
        """Let only promoters move an alias: of an adapter, of a namespace (`team/*`), or of all (`*`). Raises
        NotAllowed.
        """
        protection = build(Protection, scope=scope, alias=alias)
        return self._transport.call("POST", "/aliases/protect", ProtectionView, body=protection)

    def unprotect(self, scope: str, alias: str) -> None:
        """Let every writer move an alias again. Raises NotFound, NotAllowed."""
        protection = build(Protection, scope=scope, alias=alias)
        self._transport.call("POST", "/aliases/unprotect", type(None), body=protection)

    def protected(self) -> builtins.list[ProtectionView]:
        """The aliases that only promoters may move."""
        return TableList(self._transport.call("GET", "/aliases/protected", list[ProtectionView]))
