"""Long facts: what is known of a file with thousands of tensors is held by one request of a process at a time.

All that reads `Blob.facts`, or makes long ones from bytes, does so in a block of `holding_facts`. Short facts are read
at once. For long ones the block takes the turn, and keeps it until it ends, so nothing of them may outlive the block.
Nobody waits for the turn within a transaction: it would be the one that the request before waits for.

>>> with holding_facts():
...     take_turn(LONG_BYTES)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Text, bindparam, case, cast, func, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob
from registry.db.database import Database
from registry.db.statements import connection_of
from registry.errors import Unavailable
from registry.pools import Pool

#: Longer facts, or headers that they are made from, take turns: those of some 4,000 tensors. LoRAs of models without
#: single experts have fewer than 2,000.
LONG_BYTES = 512 * 1024
#: How long a request waits for its turn, in seconds.
WAIT_S = 240.0
#: How long in the lane of all other requests, which it keeps from its place meanwhile.
SHORT_WAIT_S = 5.0
#: What those of one file take at most, whatever is done with them, beside what a place in a lane takes: 86 MiB were
#: measured while they are stored in SQLite.
MOST_BYTES = 79 * 1024**2
_POOL = Pool(
    "long facts",
    waits=f"requests in their lanes that read, judge or combine an adapter with more than {LONG_BYTES // 1024} KiB of header, or ask for "
    f"its norms; {WAIT_S:g} s",
    at_once="1",
    item="a header of 32 MiB with 262,144 tensors, and its file read once",
    share="none is needed: who waits has a place in a lane, which is given by turns",
    most_bytes=MOST_BYTES,
)
_turn = _POOL.semaphore(1)


@dataclass
class _Block:
    wait_s: float
    has_turn: bool = False


_block: ContextVar[_Block | None] = ContextVar("registry_long_facts", default=None)

_KEPT_BYTES = func.coalesce(func.length(cast(Blob.facts, Text)), 0)
_WANTED = Blob.sha256.in_(bindparam("wanted", expanding=True))
_SHORT = select(Blob.sha256, _KEPT_BYTES, case((_KEPT_BYTES <= LONG_BYTES, Blob.facts), else_=None)).where(_WANTED)
_KEEP = (
    update(Blob)
    .where(Blob.sha256 == bindparam("wanted"), Blob.collected_at.is_(None))
    .values(facts=bindparam("kept", type_=JSON()))
)
_ANY = select(Blob.sha256, Blob.facts).where(_WANTED)


class TurnNeededError(Exception):
    """Facts are long, and the block doesn't have the turn."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"facts of {size_bytes} bytes")
        self.size_bytes = size_bytes


@contextmanager
def holding_facts(*, wait_s: float = WAIT_S) -> Iterator[None]:
    """Facts may be held within the block; the turn that was taken for them ends with it.

    A block within another one is a part of it. With `wait_s=0` long facts raise TurnNeededError, or Unavailable if they come
    up in a transaction that writes.
    """
    if _block.get() is not None:
        yield
        return
    block = _Block(wait_s)
    before = _block.set(block)
    try:
        yield
    finally:
        _block.reset(before)
        if block.has_turn:
            _turn.release()


def require_turn(size_bytes: int) -> None:
    """Raise TurnNeededError for facts of this size that are not short, in a block that doesn't have the turn."""
    if size_bytes > LONG_BYTES and not has_turn():
        raise TurnNeededError(size_bytes)


def has_turn() -> bool:
    """Whether the block has the turn, so that the facts in it may be long."""
    block = _block.get()
    return block is not None and block.has_turn


def take_turn(size_bytes: int) -> None:
    """Wait for the turn if facts are as long as that. Raises Unavailable if it doesn't come in time, TurnNeededError if the
    block waits for none.
    """
    block = _present()
    if block.wait_s == 0:
        require_turn(size_bytes)
    _take(block, size_bytes, block.wait_s)


def facts_of(db: Database, wanted: Collection[str]) -> dict[str, Any]:
    """Return what is kept of the content of these blobs, for those that have rows; long facts after the turn has come.

    It reads by itself, so no transaction should be open. Raises what `take_turn` does.
    """
    _present()
    asked = {"wanted": list(wanted)}
    with db.read() as session:
        found = connection_of(session).execute(_SHORT, asked).all()
    # Together, because they are held together.
    size_bytes = sum(row[1] for row in found)
    if size_bytes <= LONG_BYTES:
        return {sha256: facts for sha256, _, facts in found}
    del found
    take_turn(size_bytes)
    with db.read() as session:
        return {row[0]: row[1] for row in connection_of(session).execute(_ANY, asked)}


def facts_within(session: Session, sha256: str) -> Any:
    """Return what is kept of one blob, within a transaction: nobody waits there.

    Raises Unavailable for long facts, if the block doesn't have the turn and somebody else does.
    """
    block, asked = _present(), {"wanted": [sha256]}
    found = connection_of(session).execute(_SHORT, asked).first()
    if found is None or found[1] <= LONG_BYTES:
        return None if found is None else found[2]
    _take(block, found[1], 0.0)
    return connection_of(session).execute(_ANY, asked).one()[1]


def keep_facts(session: Session, sha256: str, facts: dict[str, Any]) -> None:
    """Keep what was found in a stored blob instead of what was kept before."""
    connection = connection_of(session)
    connection.execute(_KEEP, {"wanted": sha256, "kept": facts})
    if _present().has_turn and connection.dialect.name == "sqlite":
        # The driver holds what it was given last until the same statement is given something else.
        connection.execute(_KEEP, {"wanted": "", "kept": None})


def _present() -> _Block:
    block = _block.get()
    if block is None:
        raise RuntimeError("facts are held in a block of `holding_facts` only")
    return block


def _take(block: _Block, size_bytes: int, wait_s: float) -> None:
    if size_bytes <= LONG_BYTES or block.has_turn:
        return
    if not _turn.acquire(timeout=wait_s):
        raise Unavailable(
            f"the request has waited {wait_s:g} s for other adapters with thousands of tensors, of which one is worked on at a time; "
            "send the same request again shortly"
        )
    block.has_turn = True
