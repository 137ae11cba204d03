"""Making, checking and ending sessions of pages."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta

from sqlalchemy import select, update

from registry.access.tokens import Tokens, secret_digest
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import Unauthenticated
from registry.principal import LOCAL
from registry.web.sessions.models import WebSession
from registry.web.signed_in import SignedIn

#: How long a session lasts that nobody uses.
IDLE = timedelta(hours=12)


class Sessions:
    """The service over the table of sessions."""

    def __init__(self, db: Database, tokens: Tokens, *, wants_token: bool) -> None:
        """`wants_token`: whether callers have tokens; without, whoever reaches the server is its owner."""
        self._db, self._tokens, self._wants_token = db, tokens, wants_token

    def begin(self, token: str) -> str:
        """Trade a token for a new session; return the cookie's value. Raises Unauthenticated."""
        who = self._tokens.check(token) if self._wants_token else LOCAL
        secret = secrets.token_urlsafe(32)
        with self._db.write() as session:
            session.add(WebSession(secret_sha256=secret_digest(secret), token_id=who.token_id))
        return secret

    def check(self, secret: str) -> SignedIn:
        """Return the session of a cookie. Raises Unauthenticated if there is none, or its token has ended."""
        digest, now = secret_digest(secret), utc_now()
        with self._db.read() as session:
            query = select(WebSession.token_id).where(
                WebSession.secret_sha256 == digest, WebSession.ended_at.is_(None), WebSession.seen_at > now - IDLE
            )
            row = session.execute(query).first()
        if row is None or (row.token_id is None) == self._wants_token:
            raise Unauthenticated("the session has ended; sign in again")
        who = LOCAL if row.token_id is None else self._tokens.holder(f"token:{row.token_id}")
        return SignedIn(who, csrf_of(secret))

    def end(self, secret: str) -> None:
        """Sign out; repeating it is harmless."""
        of_secret = WebSession.secret_sha256 == secret_digest(secret)
        with self._db.write() as session:
            session.execute(
                update(WebSession).where(of_secret, WebSession.ended_at.is_(None)).values(ended_at=utc_now())
            )


def csrf_of(secret: str) -> str:
    """Return what the forms of a session hold: it follows from the cookie, which no other site can read, and says nothing
    about it.
    """
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()
