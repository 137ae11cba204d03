"""Who may do what in which namespaces, how much these may use, and who changed what."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime

from sdk.api.transport import Routes, keyed, pages
from sdk.given_values import build
from sdk.names import segment
from sdk.notebook.table_list import TableList
from sdk.schemas.access import (
    AuditView,
    GrantView,
    NamespaceRevocation,
    NewToken,
    QuotaLimits,
    QuotaView,
    RevocationView,
    SignInCodeView,
    TokenRequest,
    TokenView,
    Whoami,
)


class TokensAPI(Routes):
    """Tokens: who has them, and what they may do. Called, it lists them."""

    def __call__(self) -> builtins.list[TokenView]:
        """The tokens that this client administers, newest first, without secrets."""
        return TableList(self._transport.call("GET", "/tokens", list[TokenView]))

    list = __call__

    def whoami(self) -> Whoami:
        """Who this client is to the registry, and which roles it has in which namespaces. Raises
        Unauthenticated.
        """
        return self._transport.call("GET", "/whoami", Whoami)

    def sign_in_code(self) -> SignInCodeView:
        """Make a code that signs a browser in to the registry's pages as this client: once, within a minute. Raises
        Unauthenticated.
        """
        return self._transport.call("POST", "/sign-in-codes", SignInCodeView)

    def create(
        self,
        name: str,
        grants: Mapping[str, str],
        *,
        days: int | None = None,
        replace: bool = False,
        overlap_hours: int = 0,
        idempotency_key: str | None = None,
    ) -> NewToken:
        """Create a token with a role in each namespace ("-": names without one, "*": all); its secret is shown once.

        With `replace` the token in use with that name ends `overlap_hours` later. The same key gives the same token, with a
        secret that takes the place of the first. Raises InvalidInput, Conflict for a
        name that is in use there, NotAllowed for roles that this client does not administer.
        """
        given = [build(GrantView, namespace=namespace, role=role) for namespace, role in grants.items()]
        # Without a token that is replaced there is none that goes on for a while.
        overlap_hours = overlap_hours if replace else 0
        request = build(TokenRequest, name=name, grants=given, days=days, replace=replace, overlap_hours=overlap_hours)
        return self._transport.call("POST", "/tokens", NewToken, body=request, headers=keyed(idempotency_key))

    def revoke(self, token_id: str) -> TokenView:
        """Revoke a token, within a second on every server process. Raises NotFound."""
        return self._transport.call("POST", f"/tokens/{segment(token_id)}/revoke", TokenView)

    def revoke_namespace(self, namespace: str) -> RevocationView:
        """Remove every token's role in a namespace; tokens without another role are revoked.

        This client's own token keeps its role, and so do tokens with a role in all namespaces. Raises InvalidName,
        NotAllowed.
        """
        revocation = build(NamespaceRevocation, namespace=namespace)
        return self._transport.call("POST", "/tokens/revoke", RevocationView, body=revocation)


class QuotasAPI(Routes):
    """The limits of namespaces. Called, it returns those of one."""

    def get(self, namespace: str = "-") -> QuotaView:
        """The limits of a namespace ("-": names without one), and how much of them is used."""
        return self._transport.call("GET", "/quotas", QuotaView, params={"namespace": namespace})

    __call__ = get

    def set(
        self,
        namespace: str = "-",
        *,
        max_adapters: int | None = None,
        max_bytes: int | None = None,
        max_jobs: int | None = None,
        max_record_bytes: int | None = None,
    ) -> QuotaView:
        """Set the limits of a namespace; None means no limit. What exists already stays. Raises
        NotAllowed.
        """
        limits = build(
            QuotaLimits,
            max_adapters=max_adapters,
            max_bytes=max_bytes,
            max_jobs=max_jobs,
            max_record_bytes=max_record_bytes,
        )
        return self._transport.call("PUT", "/quotas", QuotaView, body=limits, params={"namespace": namespace})


class AuditAPI(Routes):
    """The record of who changed what. Called, it lists the last changes."""

    def __call__(
        self,
        *,
        actor: str | None = None,
        token: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        namespace: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> builtins.list[AuditView]:
        """The last `limit` changes in the namespaces that this client administers, newest first.

        `action` is exact or ends with `.*`; `subject` is exact, or an adapter's name for all of its versions and
        aliases. Raises NotAllowed, InvalidInput.
        """
        params = {
            "actor": actor,
            "token": token,
            "action": action,
            "subject": subject,
            "namespace": namespace,
            "since": None if since is None else since.isoformat(),
            "until": None if until is None else until.isoformat(),
        }
        return TableList(pages(self._transport, "/audit", AuditView, params=params, limit=limit))

    list = __call__
