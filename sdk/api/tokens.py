"""Tokens: who may do what in which namespaces."""

from __future__ import annotations

from sdk.api.transport import Transport, keyed
from sdk.names import segment
from sdk.schemas.access import NamespaceRevocation, NewToken, RevocationView, TokenRequest, TokenView


def create(transport: Transport, request: TokenRequest, *, key: str | None) -> NewToken:
    """Create a token; its secret is returned only once, and the same idempotency key gives the same token another one.

    Raises InvalidInput, Conflict, NotAllowed.
    """
    return transport.call("POST", "/tokens", NewToken, body=request, headers=keyed(key))


def administered(transport: Transport) -> list[TokenView]:
    """Return the tokens that this client administers, newest first, without secrets."""
    return transport.call("GET", "/tokens", list[TokenView])


def revoke(transport: Transport, token_id: str) -> TokenView:
    """Revoke a token. Raises NotFound."""
    return transport.call("POST", f"/tokens/{segment(token_id)}/revoke", TokenView)


def revoke_namespace(transport: Transport, revocation: NamespaceRevocation) -> RevocationView:
    """Remove every token's role in a namespace. Raises NotAllowed."""
    return transport.call("POST", "/tokens/revoke", RevocationView, body=revocation)
