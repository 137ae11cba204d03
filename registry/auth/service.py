"""Making, checking and revoking tokens."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import select, update

from registry.auth.models import Token
from registry.db import Database, utc_now
from registry.errors import Forbidden, NotFound, Unauthenticated


class Role(StrEnum):
    """What a token allows."""

    #: Reads everything.
    READER = "reader"
    #: Also submits jobs, pushes versions, moves aliases.
    WRITER = "writer"
    #: Also moves protected aliases.
    PROMOTER = "promoter"
    #: Claims jobs and hands in results; may do what a writer may.
    WORKER = "worker"
    #: Everything.
    ADMIN = "admin"


#: Which roles may do what a view asks for.
_MAY: dict[str, frozenset[Role]] = {
    "read": frozenset(Role),
    "write": frozenset({Role.WRITER, Role.PROMOTER, Role.WORKER, Role.ADMIN}),
    "work": frozenset({Role.WORKER, Role.ADMIN}),
}


@dataclass(frozen=True)
class Principal:
    """Who is asking."""

    name: str
    role: Role

    def require(self, action: str) -> None:
        """Raise Forbidden unless the role allows `action` ("read", "write" or "work")."""
        if self.role not in _MAY[action]:
            allowed = ", ".join(sorted(role.value for role in _MAY[action]))
            raise Forbidden(f"a token with the role '{self.role}' may not do this; use one with a role of: {allowed}")


#: Everyone, where `REGISTRY_AUTH=none` or the registry is embedded.
LOCAL = Principal("local", Role.ADMIN)


class Tokens:
    """The service over the table of tokens."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(self, *, name: str, role: Role, days: int | None = None) -> tuple[str, str]:
        """Make a token; return its id and the secret, which can't be read again."""
        token_id = secrets.token_hex(8)
        secret = f"actl_{secrets.token_urlsafe(32)}"
        expires_at = None if days is None else utc_now() + timedelta(days=days)
        with self._db.write() as session:
            session.add(
                Token(id=token_id, name=name, role=role.value, secret_sha256=_hash(secret), expires_at=expires_at)
            )
        return token_id, secret

    def revoke(self, token_id: str) -> None:
        """Make a token worthless at once. Raises NotFound for an id that is unknown."""
        with self._db.write() as session:
            changed = session.execute(
                update(Token).where(Token.id == token_id).values(revoked_at=utc_now()).returning(Token.id)
            )
            if changed.first() is None:
                raise NotFound(f"there is no token {token_id!r}; list them with: adapter-registry token list")

    def list(self) -> list[Token]:
        """All tokens, the newest first, without secrets."""
        with self._db.read() as session:
            return list(session.scalars(select(Token).order_by(Token.created_at.desc())))

    def check(self, secret: str | None) -> Principal:
        """Return who holds `secret`. Raises Unauthenticated for none, or one that is unknown, expired or revoked."""
        if not secret:
            raise Unauthenticated("this registry wants a token; set ADAPTERCTL_TOKEN or run: adapterctl login URL")
        with self._db.read() as session:
            token = session.scalars(select(Token).where(Token.secret_sha256 == _hash(secret))).first()
        if (
            token is None
            or token.revoked_at is not None
            or (token.expires_at is not None and token.expires_at < utc_now())
        ):
            raise Unauthenticated(
                "the token is unknown, expired or revoked; ask an admin for a new one, then run: adapterctl login URL"
            )
        return Principal(token.name, Role(token.role))


def _hash(secret: str) -> str:
    # The secret has 256 random bits, so a fast hash keeps it as well as a slow one would.
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
