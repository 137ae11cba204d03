"""Tokens, and who the caller is."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from registry.access.keys import IdempotencyKey
from registry.access.tokens import Tokens
from registry.errors import Invalid
from registry.http.routes import Admin, Reader, room, service
from registry.principal import Role
from sdk.schemas.access import (
    GrantView,
    NamespaceRevocation,
    NewToken,
    RevocationView,
    TokenRequest,
    TokenView,
    Whoami,
)

router = room("", "people")

TokensDep = Annotated[Tokens, service(Tokens)]


@router.get("/whoami")
def whoami(who: Reader) -> Whoami:
    """Who the caller is to the registry, and what they may do where."""
    return Whoami(
        name=who.name,
        token=who.token_id,
        grants=[GrantView(namespace=namespace, role=role.value) for namespace, role in sorted(who.grants.items())],
    )


@router.post("/tokens", status_code=201)
def create_token(body: TokenRequest, tokens: TokensDep, who: Admin, key: IdempotencyKey) -> NewToken:
    """Create a token; its secret is shown in this answer and never again.

    The same `Idempotency-Key` with the same body gives the same token, with a secret that takes the place of the first.
    """
    grants = {grant.namespace: Role(grant.role) for grant in body.grants}
    if len(grants) != len(body.grants):
        raise Invalid("a namespace is named twice; a token has one role in each", param="grants")
    return tokens.create(
        name=body.name,
        grants=grants,
        days=body.days,
        replace=body.replace,
        overlap_hours=body.overlap_hours,
        who=who,
        idempotency_key=key,
    )


@router.get("/tokens")
def list_tokens(tokens: TokensDep, who: Admin) -> list[TokenView]:
    """The tokens that the caller administers, newest first."""
    return tokens.list(who=who)


@router.post("/tokens/revoke")
def revoke_namespace(body: NamespaceRevocation, tokens: TokensDep, who: Admin) -> RevocationView:
    """Take away every token's role in a namespace; tokens without another role are revoked."""
    return tokens.revoke_namespace(body.namespace, who=who)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(token_id: Annotated[str, Path(max_length=64)], tokens: TokensDep, who: Admin) -> TokenView:
    """Revoke a token, within a second on every server process."""
    return tokens.revoke(token_id, who=who)
