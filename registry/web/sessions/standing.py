"""Who still reads: many sessions at once, for pages that stay open."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import and_, select

from registry.access.models import Grant, Token, in_use
from registry.db.database import Database
from registry.db.types import utc_now
from registry.principal import LOCAL, Principal, Role
from registry.web.sessions.models import WebSession
from registry.web.sessions.service import IDLE

#: How many sessions are looked up with one statement.
_AT_ONCE = 500


def still_signed_in(db: Database, digests: Collection[str]) -> dict[str, Principal]:
    """Return who reads with each of these sessions, by the digest of its secret, with the roles that they have now.

    Sessions that have ended, or whose token has, are left out. One statement for many; each token is looked up once.
    """
    wanted = sorted(digests)
    found: dict[str, Principal] = {}
    for first in range(0, len(wanted), _AT_ONCE):
        found |= _some(db, wanted[first : first + _AT_ONCE])
    return found


def _some(db: Database, digests: Collection[str]) -> dict[str, Principal]:
    query = (
        select(WebSession.secret_sha256, WebSession.token_id, Token.id, Token.name, Grant.namespace, Grant.role)
        .outerjoin(Token, and_(Token.id == WebSession.token_id, in_use()))
        .outerjoin(Grant, Grant.token_id == Token.id)
        .where(
            WebSession.secret_sha256.in_(digests),
            WebSession.ended_at.is_(None),
            WebSession.seen_at > utc_now() - IDLE,
        )
    )
    holders: dict[str, tuple[str, dict[str, Role]]] = {}
    sessions: dict[str, str | None] = {}
    with db.read() as session:
        # What is joined from the outside may be missing.
        rows: Sequence[Any] = session.execute(query).all()
        for digest, token_id, in_use_id, name, namespace, role in rows:
            if token_id is not None and in_use_id is None:
                continue
            sessions[digest] = token_id
            if token_id is not None:
                _, grants = holders.setdefault(token_id, (name, {}))
                if namespace is not None:
                    grants[namespace] = Role(role)
    known = {token_id: Principal(name, grants, token_id) for token_id, (name, grants) in holders.items()}
    return {digest: LOCAL if token_id is None else known[token_id] for digest, token_id in sessions.items()}
