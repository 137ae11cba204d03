"""Making, checking and ending sessions of pages, and the codes that are traded for one.

>>> MOST_SESSIONS
100
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from registry.access.models import Token, in_use
from registry.access.secret_digests import secret_digest
from registry.access.tokens import Tokens, principal_of
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import RegistryError, Unauthenticated
from registry.principal import LOCAL, Principal
from registry.web.sessions.models import SignInCode, WebSession
from registry.web.signed_in import SignedIn
from sdk.schemas.access import SignInCodeView

#: How long a session lasts that nobody uses.
IDLE = timedelta(hours=12)
#: How long a code can be traded.
CODE = timedelta(seconds=60)
#: How many sessions, and codes, of one token are kept; the oldest end first.
MOST_SESSIONS = 100
#: How exactly it is recorded when a session was used.
_SEEN = timedelta(minutes=1)
#: How long it is known that a code was used: whoever comes with it then ends what somebody else has made of it.
_REMEMBERED = timedelta(days=1)
#: How many rows one transaction removes.
_BATCH = 500


class Sessions:
    """The service over the tables of sessions and codes."""

    def __init__(
        self,
        db: Database,
        tokens: Tokens,
        *,
        wants_token: bool,
        wants_code: bool = False,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """`wants_token`: whether callers have tokens; without, whoever reaches the server is its owner, unless it
        `wants_code`: then it is who comes with a code of this process. Nothing is recorded about reading unless it
        `may_write`.
        """
        self._db, self._tokens, self._may_write = db, tokens, may_write
        self.wants_token, self.wants_code = wants_token, wants_code
        #: What is made without a token is known to this process alone, and ends with it.
        self._salt = secrets.token_hex(16) if wants_code else ""
        self._listeners: list[Callable[[Collection[str]], None]] = []

    def begin(self, token: str, *, before: str = "") -> str:
        """Trade a token for a new session, which replaces the one that the browser had `before`; return the cookie's value.

        Raises Unauthenticated.
        """
        if self.wants_code:
            raise Unauthenticated("a session here begins with a code; open the address that this prints: adapterctl ui")
        who = self._tokens.check(token) if self.wants_token else LOCAL
        secret = secrets.token_urlsafe(32)
        with self._db.write() as session:
            self._add(session, secret, who.token_id, before)
        return secret

    def code(self, *, who: Principal, code: str | None = None) -> SignInCodeView:
        """Make a code, or let this new one count, that signs a token's holder in once, within a minute."""
        code = code or secrets.token_urlsafe(24)
        with self._db.write() as session:
            _make_room(session, SignInCode, SignInCode.code_sha256, SignInCode.created_at, who.token_id)
            session.add(SignInCode(code_sha256=self._digest(code), token_id=who.token_id, created_at=utc_now()))
        return SignInCodeView(code=code, expires_in_s=int(CODE.total_seconds()))

    def begin_by_code(self, code: str, *, before: str = "") -> str:
        """Trade a code for a new session, which replaces the one that the browser had `before`; return the cookie's value.

        Sent again by the browser that has made a session of it, it gives that one again. Raises Unauthenticated. If
        somebody else was faster, what they have made of it ends.
        """
        digest, secret = self._digest(code), secrets.token_urlsafe(32)
        mine, now = SignInCode.code_sha256 == digest, utc_now()
        is_new = SignInCode.session_sha256.is_(None) & (SignInCode.created_at > now - CODE)
        with self._db.write() as session:
            traded = update(SignInCode).where(mine, is_new).values(session_sha256=self._digest(secret))
            row = session.execute(traded.returning(SignInCode.token_id)).first()
            if row is not None:
                self._add(session, secret, row.token_id, before)
                return secret
            made = session.scalar(select(SignInCode.session_sha256).where(mine))
            if made is not None and made == self._digest(before):
                return before
            if made is not None:
                session.execute(_ended(WebSession.secret_sha256 == made))
        if made is None:
            raise Unauthenticated(f"this code is unknown, or older than a minute; {self._another}")
        raise Unauthenticated(
            "this code was used already; in case somebody else has it, the session that it was used for has been ended; "
            f"{self._another}"
        )

    def check(self, secret: str) -> SignedIn:
        """Return the session of a cookie, and record that it is used. Raises Unauthenticated if there is none, or its
        token has ended.
        """
        digest = self._digest(secret)
        who = self.standing([digest]).get(digest)
        if who is None:
            raise Unauthenticated("the session has ended; sign in again")
        return SignedIn.of(secret, who, digest)

    def standing(self, digests: Collection[str]) -> dict[str, Principal]:
        """Return who holds each of these sessions, with the roles that their tokens have now; those that have ended are
        left out. One statement, however many: for streams, which ask for all their readers at once.
        """
        now = utc_now()
        with self._db.read() as session:
            query = (
                select(WebSession, Token)
                .outerjoin(Token, and_(Token.id == WebSession.token_id, in_use()))
                .options(joinedload(Token.grants))
                .where(
                    WebSession.secret_sha256.in_(digests),
                    WebSession.ended_at.is_(None),
                    WebSession.seen_at > now - IDLE,
                )
            )
            rows = session.execute(query).unique().all()
            found, unseen = {}, []
            for row, token in rows:
                if self.wants_token and token is not None:
                    found[row.secret_sha256] = principal_of(token)
                elif not self.wants_token and row.token_id is None:
                    found[row.secret_sha256] = LOCAL
                if row.secret_sha256 in found and row.seen_at < now - _SEEN:
                    unseen.append(row.secret_sha256)
        self._note_seen(unseen, now)
        return found

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call this with the digests of sessions of which somebody sees that their holders have other rights than before."""
        self._listeners.append(listener)

    def note_changed(self, digests: Collection[str]) -> None:
        """Let those who remember these sessions ask for them again."""
        for listener in self._listeners:
            listener(digests)

    def end(self, secret: str) -> None:
        """Sign out; repeating it is harmless."""
        with self._db.write() as session:
            session.execute(_ended(WebSession.secret_sha256 == self._digest(secret)))

    def forget(self) -> int:
        """Remove sessions that have ended, and codes of earlier days; return how many rows."""
        now = utc_now()
        over = or_(WebSession.ended_at.is_not(None), WebSession.seen_at < now - IDLE)
        return self._remove(WebSession.secret_sha256, over) + self._remove(
            SignInCode.code_sha256, SignInCode.created_at < now - _REMEMBERED
        )

    def _remove(self, key: InstrumentedAttribute[str], over: Any) -> int:
        total = 0
        while True:
            with self._db.write() as session:
                keys = session.scalars(select(key).where(over).limit(_BATCH)).all()
                if keys:
                    session.execute(delete(key.class_).where(key.in_(keys)))
            total += len(keys)
            if len(keys) < _BATCH:
                return total

    def _add(self, session: Session, secret: str, token_id: str | None, before: str) -> None:
        if before:
            session.execute(_ended(WebSession.secret_sha256 == self._digest(before)))
        _make_room(session, WebSession, WebSession.secret_sha256, WebSession.seen_at, token_id)
        session.add(WebSession(secret_sha256=self._digest(secret), token_id=token_id))

    def _note_seen(self, digests: Collection[str], now: datetime) -> None:
        if not digests or not self._may_write():
            return
        try:
            with self._db.write() as session:
                seen = update(WebSession).where(WebSession.secret_sha256.in_(digests), WebSession.seen_at < now - _SEEN)
                session.execute(seen.values(seen_at=now))
        except RegistryError:
            # It is noted by the next request; this one only wants to read.
            return

    @property
    def _another(self) -> str:
        if self.wants_code:
            return "open the address that `adapterctl ui` prints by now, or run it again"
        return "run this again: adapterctl ui"

    def _digest(self, secret: str) -> str:
        return secret_digest(self._salt + secret)


def _ended(which: Any) -> Any:
    return update(WebSession).where(which, WebSession.ended_at.is_(None)).values(ended_at=utc_now())


def _make_room(
    session: Session,
    rows: type[WebSession | SignInCode],
    key: InstrumentedAttribute[str],
    at: InstrumentedAttribute[datetime],
    token_id: str | None,
) -> None:
    """Remove the oldest rows of a token, so that it may have one more."""
    older = select(key).where(rows.token_id == token_id).order_by(at.desc(), key).offset(MOST_SESSIONS - 1)
    if gone := session.scalars(older.limit(_BATCH)).all():
        session.execute(delete(rows).where(key.in_(gone)))
