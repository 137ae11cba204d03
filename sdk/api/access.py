"""Who may do what in which namespaces, how much these may use, and who changed what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from sdk.api.transport import Transport, keyed, pages
from sdk.names import segment
from sdk.schemas.access import (
    AuditView,
    NamespaceRevocation,
    NewToken,
    QuotaLimits,
    QuotaView,
    RevocationView,
    TokenRequest,
    TokenView,
    Whoami,
)


def whoami(transport: Transport) -> Whoami:
    """Return who this client is to the registry, and what it may do in which namespaces. Raises Unauthenticated."""
    return transport.call("GET", "/whoami", Whoami)


def create_token(transport: Transport, request: TokenRequest, *, key: str | None) -> NewToken:
    """Create a token; its secret is returned only once, and the same idempotency key gives the same token another one.

    Raises InvalidInput, Conflict, NotAllowed.
    """
    return transport.call("POST", "/tokens", NewToken, body=request, headers=keyed(key))


def tokens(transport: Transport) -> list[TokenView]:
    """Return the tokens that this client administers, newest first, without secrets."""
    return transport.call("GET", "/tokens", list[TokenView])


def revoke_token(transport: Transport, token_id: str) -> TokenView:
    """Revoke a token. Raises NotFound."""
    return transport.call("POST", f"/tokens/{segment(token_id)}/revoke", TokenView)


def revoke_namespace(transport: Transport, revocation: NamespaceRevocation) -> RevocationView:
    """Remove every token's role in a namespace. Raises NotAllowed."""
    return transport.call("POST", "/tokens/revoke", RevocationView, body=revocation)


def quota(transport: Transport, namespace: str) -> QuotaView:
    """Return the limits of a namespace ("-": names without one), and how much of them is used."""
    return transport.call("GET", "/quotas", QuotaView, params={"namespace": namespace})


def set_quota(transport: Transport, namespace: str, limits: QuotaLimits) -> QuotaView:
    """Set the limits of a namespace. Raises NotAllowed."""
    return transport.call("PUT", "/quotas", QuotaView, body=limits, params={"namespace": namespace})


def audit(transport: Transport, *, limit: int, where: Mapping[str, str | datetime | None]) -> Iterator[AuditView]:
    """Yield the last `limit` changes that match `where`, newest first. Raises NotAllowed, InvalidInput."""
    texts = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in where.items()}
    return pages(transport, "/audit", AuditView, params={**texts}, limit=limit)
