"""Repairs what a crash, a lost message or a silent worker left behind: one sweep after another, by one process. Which one
is noted for monitoring.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from registry.access.read_only.service import ReadOnlySwitch
from registry.db.database import Database
from registry.db.statements import upsert
from registry.db.types import db_epoch_s
from registry.errors import RegistryError
from registry.jobs.models import Sweeper
from registry.pools import Pool

#: Held by the one process that sweeps.
LEADER_LOCK = 0x6164617073776570
_POOL = Pool(
    "reconciler",
    waits="nobody: it repairs what crashes left, every `REGISTRY_RECONCILE_S`",
    at_once="1",
    item="1,000 rows for each of its steps",
    share="none is needed: nobody waits",
)

_log = logging.getLogger(__name__)


#: A process that has not swept for this long is no longer reported, in seconds.
_FORGOTTEN_AFTER_S = 600.0


class Reconciler:
    """Sweeps. Several at once do no harm, because each move is conditional; one is enough."""

    def __init__(self, db: Database, read_only: ReadOnlySwitch, steps: Mapping[str, Callable[[], int]]) -> None:
        """`steps` are what a sweep does, by the name under which it is reported; each returns how many of them."""
        self._db = db
        self._read_only = read_only
        self._steps = steps

    def sweep(self) -> dict[str, int]:
        """Queue again what expired, remind the queue of waiting jobs, forget old checkpoints and workers; return how
        many of each.

        Every step runs even if others fail; none runs while the registry is read-only. Raises the
        first failure's error.
        """
        done, failure = dict.fromkeys(self._steps, 0), None
        if self._read_only.reason() is not None:
            return done
        for name, step in self._steps.items():
            try:
                done[name] = step()
            except Exception as error:  # noqa: BLE001 - the other steps have nothing to do with it
                _log.warning("a step of the reconciler failed (%s): %s", name, type(error).__name__)
                failure = failure or error
        if failure is not None:
            raise failure
        return done

    def run(self, *, every_s: float, stop: threading.Event) -> None:
        """Sweep at this interval while this process leads, until `stop` is set. No failure ends it."""
        while not stop.is_set():
            try:
                with self._leading() as leads:
                    led = False
                    while not stop.is_set():
                        if leads():
                            self._swept(led)
                            led = True
                        stop.wait(every_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody else sweeps for this registry
                # A driver's message may quote rows, so only errors of the program itself are logged in full.
                known = isinstance(error, (RegistryError, SQLAlchemyError, OSError))
                _log.warning(
                    "the reconciler continues after an error: %s",
                    type(error).__name__,
                    exc_info=None if known else error,
                )
                stop.wait(every_s)

    def _swept(self, led: bool) -> None:
        """Sweep, and record for monitoring that this process did; `led` says whether it has done so before."""
        if self._read_only.reason() is not None:
            return
        try:
            self.sweep()
        finally:
            with self._db.write() as session:
                note_sweep(session, self._name, led=led, alone=self._db.engine.dialect.name == "postgresql")

    @property
    def _name(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}"[:200]

    @contextmanager
    def _leading(self) -> Iterator[Callable[[], bool]]:
        """Yield a function that says whether this process leads now. On SQLite each does: they take turns anyway."""
        if self._db.engine.dialect.name != "postgresql":
            yield lambda: True
            return
        with self._db.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            # The lock lives as long as this connection; in the pool it would outlive its holder.
            connection.detach()
            # A holder gets it again, and so learns that the connection is still alive.
            asked = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=LEADER_LOCK)
            yield lambda: bool(connection.scalar(asked))


@contextmanager
def in_background(reconciler: Reconciler, *, every_s: float) -> Iterator[None]:
    """Let a thread of this process sweep until the block ends."""
    stop = threading.Event()
    thread = _POOL.thread(reconciler.run, name="reconciler", every_s=every_s, stop=stop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def note_sweep(session: Session, name: str, *, led: bool, alone: bool) -> None:
    """Record that a process has swept now; its lead begins now unless it has `led` before.

    If one process leads `alone`, no other does from now on. Otherwise processes that have not swept for a while are
    forgotten.
    """
    now = db_epoch_s()
    there = (
        led
        and session.execute(
            update(Sweeper).where(Sweeper.name == name).values(swept_at_s=now).returning(Sweeper.name)
        ).first()
    )
    if not there:
        upsert(session, Sweeper, {"name": name}, {"since_s": now, "swept_at_s": now})
    others = Sweeper.name != name
    silent = Sweeper.swept_at_s < now - _FORGOTTEN_AFTER_S
    session.execute(delete(Sweeper).where(others) if alone else delete(Sweeper).where(others, silent))


def sweepers(session: Session) -> Sequence[tuple[str, float, float]]:
    """The processes that sweep: name, since when, and when last, both in seconds since 1970."""
    rows = select(Sweeper.name, Sweeper.since_s, Sweeper.swept_at_s).order_by(Sweeper.name)
    return session.execute(rows).all()
