"""Making, checking and revoking tokens."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import select

from registry.audit.service import record
from registry.auth.models import Grant, Token
from registry.auth.principal import EVERYWHERE, Principal, Role
from registry.db import Database, utc_now
from registry.errors import Forbidden, Invalid, InvalidName, NotFound, Unauthenticated
from sdk.schemas.people import GrantView, NewToken, TokenView
from sdk.schemas.refs import BadNameError, parse_namespace


class Tokens:
    """The service over the table of tokens."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(self, *, name: str, grants: Mapping[str, Role], days: int | None = None, who: Principal) -> NewToken:
        """Make a token that allows `grants` (namespace to role); its secret can't be read again.

        Raises Forbidden where the caller administers less than that, InvalidName for what is no namespace.
        """
        if not grants:
            raise Invalid("a token without a role allows nothing; give it one", param="grants")
        for namespace in grants:
            _check_namespace(namespace)
            _require_admin(who, namespace)
        token_id = secrets.token_hex(8)
        secret = f"actl_{secrets.token_urlsafe(32)}"
        token = Token(
            id=token_id,
            name=name,
            secret_sha256=secret_digest(secret),
            created_by=who.name,
            created_at=utc_now(),
            expires_at=None if days is None else utc_now() + timedelta(days=days),
            grants=[Grant(namespace=namespace, role=role.value) for namespace, role in sorted(grants.items())],
        )
        with self._db.write() as session:
            session.add(token)
            view = _view(token)
            # The admins of each namespace see in their trail who got a role there.
            for grant in token.grants:
                after = view.model_dump(mode="json")
                record(session, who, "token.create", grant.namespace, token_id, after=after)
        return NewToken(**view.model_dump(), secret=secret)

    def revoke(self, token_id: str, *, who: Principal) -> TokenView:
        """Make a token worthless at once; again is harmless. Raises NotFound for one that the caller may not see."""
        with self._db.write() as session:
            token = session.get(Token, token_id, with_for_update=True)
            if token is None or not _administers(who, token):
                raise NotFound(f"there is no token {token_id[:40]!a}; list them with: adapterctl token list")
            if token.revoked_at is None:
                token.revoked_at = utc_now()
                for grant in token.grants:
                    record(session, who, "token.revoke", grant.namespace, token_id, before={"name": token.name})
            return _view(token)

    def list(self, *, who: Principal) -> list[TokenView]:
        """The tokens that the caller administers, the newest first, without secrets."""
        with self._db.read() as session:
            found = session.scalars(select(Token).order_by(Token.created_at.desc(), Token.id))
            return [_view(token) for token in found if _administers(who, token)]

    def check(self, secret: str | None) -> Principal:
        """Return who holds `secret`. Raises Unauthenticated for none, or one that is unknown, expired or revoked."""
        if not secret:
            raise Unauthenticated("this registry wants a token; set ADAPTERCTL_TOKEN or run: adapterctl login URL")
        with self._db.read() as session:
            token = session.scalars(select(Token).where(Token.secret_sha256 == secret_digest(secret))).first()
        if (
            token is None
            or token.revoked_at is not None
            or (token.expires_at is not None and token.expires_at < utc_now())
        ):
            raise Unauthenticated(
                "the token is unknown, expired or revoked; ask an admin for a new one, then run: adapterctl login URL"
            )
        return Principal(token.name, {grant.namespace: Role(grant.role) for grant in token.grants}, token.id)


def secret_digest(secret: str) -> str:
    """What is kept of a token. It has 256 random bits, so a fast hash keeps it as well as a slow one would."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _check_namespace(namespace: str) -> None:
    if namespace in (EVERYWHERE, "-"):
        return
    try:
        parse_namespace(namespace)
    except BadNameError as error:
        raise InvalidName(f"{error}; or '*' for all, '-' for names without a namespace", param="grants") from None


def _require_admin(who: Principal, namespace: str) -> None:
    if namespace == EVERYWHERE:
        who.require_everywhere("admin")
    elif not who.may("admin", namespace):
        raise Forbidden(f"this token may not give out roles in {namespace!r}; use one that is admin there")


def _administers(who: Principal, token: Token) -> bool:
    """Whether everything that a token allows lies where the caller is an admin."""
    namespaces = who.namespaces("admin")
    return namespaces is None or all(grant.namespace in namespaces for grant in token.grants)


def _view(token: Token) -> TokenView:
    return TokenView(
        id=token.id,
        name=token.name,
        grants=[GrantView(namespace=grant.namespace, role=Role(grant.role).value) for grant in token.grants],
        created_by=token.created_by,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )
