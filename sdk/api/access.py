"""The client's side of people: tokens and their roles, quotas, the audit trail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from sdk.api.files import FileClient
from sdk.schemas.pages import Page
from sdk.schemas.people import (
    AuditView,
    GrantView,
    NamespaceRevocation,
    NewToken,
    QuotaLimits,
    QuotaView,
    RevocationView,
    TokenReplacement,
    TokenRequest,
    TokenView,
    Whoami,
)
from sdk.validation import build, segment


class PeopleClient(FileClient):
    """The part of a client that works on tokens, quotas and the audit trail."""

    def whoami(self) -> Whoami:
        """Who the registry takes this client for, and what it may do where."""
        return self.call("GET", "/whoami", Whoami)

    def create_token(
        self,
        name: str,
        grants: Mapping[str, str],
        *,
        days: int | None = None,
        replace: bool = False,
        overlap_hours: int = 0,
    ) -> NewToken:
        """Make a token with a role in each namespace ("-": names without one, "*": all); its secret is shown once.

        With `replace` the token in use that has its name ends `overlap_hours` later. Raises InvalidInput, Conflict for a
        name that is in use there, NotAllowed for roles that this client does not administer.
        """
        given = [build(GrantView, namespace=namespace, role=role) for namespace, role in grants.items()]
        about = {"name": name, "grants": given, "days": days}
        # A server of the release before knows nothing of replacing, and refuses fields that it does not know.
        body = (
            build(TokenReplacement, **about, replace=True, overlap_hours=overlap_hours)
            if replace
            else build(TokenRequest, **about)
        )
        return self.call("POST", "/tokens", NewToken, body=body)

    def tokens(self) -> list[TokenView]:
        """The tokens that this client administers, the newest first, without secrets."""
        return self.call("GET", "/tokens", list[TokenView])

    def revoke_token(self, token_id: str) -> TokenView:
        """Make a token worthless, within a second on every server process. Raises NotFound."""
        return self.call("POST", f"/tokens/{segment(token_id)}/revoke", TokenView)

    def revoke_namespace(self, namespace: str) -> RevocationView:
        """Take from every token the role that it has in a namespace; those that have none beside it are revoked.

        This client's own token keeps it, and so do those with a role in all namespaces. Raises InvalidName, NotAllowed.
        """
        return self.call("POST", "/tokens/revoke", RevocationView, body=build(NamespaceRevocation, namespace=namespace))

    def quota(self, namespace: str = "-") -> QuotaView:
        """The limits of a namespace ("-": names without one), and what is used of them."""
        return self.call("GET", "/quotas", QuotaView, params={"namespace": namespace})

    def set_quota(
        self,
        namespace: str = "-",
        *,
        max_adapters: int | None = None,
        max_bytes: int | None = None,
        max_jobs: int | None = None,
    ) -> QuotaView:
        """Set the limits of a namespace; None means none. What it has already stays."""
        body = build(QuotaLimits, max_adapters=max_adapters, max_bytes=max_bytes, max_jobs=max_jobs)
        return self.call("PUT", "/quotas", QuotaView, body=body, params={"namespace": namespace})

    def audit(
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
    ) -> list[AuditView]:
        """The last `limit` changes in the namespaces that this client administers, the newest first.

        `action` is whole or ends with `.*`; `subject` is whole, or an adapter's name for all of its versions and aliases.
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
        found: list[AuditView] = []
        for page in self._audit_pages(params, limit):
            found += page.items
        return found[:limit]

    def _audit_pages(self, params: Mapping[str, str | None], limit: int) -> Iterator[Page[AuditView]]:
        cursor: str | None = None
        while limit > 0:
            asked = min(limit, 500)
            given = {**params, "limit": asked, "cursor": cursor}
            page = self.call("GET", "/audit", Page[AuditView], params=given)
            yield page
            limit, cursor = limit - asked, page.next
            if cursor is None:
                return
