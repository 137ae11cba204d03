"""Keyed requests: whose turn it is to work on one, and what the answer was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.orm import Session

from registry.db.clock import db_epoch_s
from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.errors import Conflict
from registry.http.idempotency.models import KeyedRequest
from registry.principal import Principal

#: A request in progress that has shown no sign of life for this long has lost its process, and is run again.
ABANDONED = timedelta(seconds=60)
#: From which length an answer is long, in bytes, and how many long ones of one caller are kept: a short request may have
#: a long answer, as often as it is sent with another key. A request whose answer is not kept is run again.
LONG_BYTES, MOST_LONG = 16 * 1024, 64


@dataclass(frozen=True)
class Keyed:
    """A request with a key."""

    #: Who sends it: the same key from somebody else is another key.
    owner: str
    key: str
    #: SHA-256 over everything that distinguishes it from other requests.
    digest: str


@dataclass(frozen=True)
class Turn:
    """The right to work on a keyed request, held by whoever last said so to the database."""

    request: Keyed
    since: datetime


@dataclass(frozen=True)
class Answer:
    """The answer to a keyed request."""

    status: int
    body: str


class KeyedRequests:
    """The service over the table of keyed requests."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self, request: Keyed) -> Turn | Answer | None:
        """Take the turn to work on a request, or return its answer, or None while somebody else works on it.

        Raises Conflict if the key was used for another request.
        """
        with self._db.write() as session:
            now = _now(session)
            new = insert_if_new(
                session,
                KeyedRequest,
                owner=request.owner,
                key=request.key,
                request_digest=request.digest,
                created_at=now,
            )
            if new:
                return Turn(request, now)
            row = _find(session, request)
            if row is None or row.status is not None or now - row.created_at < ABANDONED:
                return None if row is None else _answer(row)
            return _take(session, Turn(request, row.created_at), now)

    def look(self, request: Keyed) -> Answer | None:
        """Return the answer to a request, or None while it is worked on, or if nobody works on it any more."""
        with self._db.read() as session:
            row = _find(session, request)
            return None if row is None else _answer(row)

    def stay(self, turn: Turn) -> Turn | None:
        """Say that a request is still worked on. Return None if the turn was lost because nobody had said so for too
        long.
        """
        with self._db.write() as session:
            return _take(session, turn, _now(session))

    def finish(self, turn: Turn, answer: Answer) -> None:
        """Keep the answer, unless the turn was lost; of a caller's long ones, only the newest `MOST_LONG` are kept."""
        is_long = len(answer.body.encode()) > LONG_BYTES
        with self._db.write() as session:
            held = update(KeyedRequest).where(_held(turn))
            session.execute(held.values(status=answer.status, body=answer.body, is_long=is_long))
            if is_long:
                theirs = (KeyedRequest.owner == turn.request.owner, KeyedRequest.is_long)
                newest = select(KeyedRequest.key).where(*theirs).order_by(KeyedRequest.created_at.desc())
                surplus = session.scalars(newest.offset(MOST_LONG)).all()
                session.execute(delete(KeyedRequest).where(*theirs, KeyedRequest.key.in_(surplus)))

    def forget(self, turn: Turn) -> None:
        """Let the request be run again, as if it had never been sent, unless the turn was lost."""
        with self._db.write() as session:
            session.execute(delete(KeyedRequest).where(_held(turn)))


def owner_of(who: Principal) -> str:
    """Whose keys they are: a token's, as long as its rights stay the same. An answer may contain what it may no longer
    see.
    """
    return hashlib.sha256(json.dumps([who.owner, sorted(who.grants.items())]).encode()).hexdigest()


def keep(session: Session, request: Keyed, body: str) -> None:
    """Keep the result of a request, in the transaction that does what it asks.

    Raises Conflict if the same request is worked on in another transaction: it has to be sent again.
    """
    told = {"owner": request.owner, "key": request.key, "request_digest": request.digest}
    if not insert_if_new(session, KeyedRequest, **told, status=200, body=body):
        raise Conflict("this request was sent twice at once; send it again for its answer", param="idempotency_key")


def kept(session: Session, request: Keyed) -> str | None:
    """Return what `keep` was given for a request. Raises Conflict if its key was used for another one."""
    row = _find(session, request)
    return None if row is None else row.body


def _now(session: Session) -> datetime:
    """The time by the database's clock, which is the same for all processes that wait for one another."""
    return datetime.fromtimestamp(session.execute(select(db_epoch_s())).scalar_one(), UTC)


def _find(session: Session, request: Keyed) -> KeyedRequest | None:
    """Return the row of a request's key. Raises Conflict if it belongs to another request."""
    row = session.get(KeyedRequest, (request.owner, request.key))
    if row is not None and row.request_digest != request.digest:
        raise Conflict("this idempotency key was used for another request; use a new key", param="idempotency_key")
    return row


def _answer(row: KeyedRequest) -> Answer | None:
    return None if row.status is None else Answer(row.status, row.body or "")


def _held(turn: Turn) -> ColumnElement[bool]:
    """The condition that a turn was not lost."""
    return and_(
        KeyedRequest.owner == turn.request.owner,
        KeyedRequest.key == turn.request.key,
        KeyedRequest.status.is_(None),
        KeyedRequest.created_at == turn.since,
    )


def _take(session: Session, turn: Turn, now: datetime) -> Turn | None:
    """Begin a turn now; if two try, only one does."""
    taken = session.execute(
        update(KeyedRequest).where(_held(turn)).values(created_at=now).returning(KeyedRequest.key)
    ).first()
    return None if taken is None else Turn(turn.request, now)
