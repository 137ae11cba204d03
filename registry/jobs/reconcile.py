"""What puts right what a crash, a lost message or a silent worker left: one sweep after another, by one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from registry.db import Database
from registry.errors import RegistryError
from registry.jobs.checkpoints import Checkpoints
from registry.jobs.claims import Claims
from registry.jobs.service import Jobs
from registry.jobs.workers import Workers
from registry.readonly.service import ReadOnlySwitch

#: Held by the one process that sweeps.
LEADER_LOCK = 0x6164617073776570

_log = logging.getLogger(__name__)


class Reconciler:
    """Sweeps. Several at once do no harm, since each move is conditional; one is enough."""

    def __init__(
        self,
        db: Database,
        claims: Claims,
        jobs: Jobs,
        checkpoints: Checkpoints,
        workers: Workers,
        read_only: ReadOnlySwitch,
    ) -> None:
        self._db = db
        self._claims = claims
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._workers = workers
        self._read_only = read_only

    def sweep(self) -> dict[str, int]:
        """Queue again what expired, remind the queue of what waits, forget old checkpoints and workers; return how many of each.

        Nothing of it is done while the registry is read-only.
        """
        steps = {
            "requeued": self._claims.requeue_expired,
            "announced": self._jobs.remind,
            "expired_checkpoints": self._checkpoints.expire,
            "forgotten_workers": self._workers.forget,
        }
        if self._read_only.reason() is not None:
            return dict.fromkeys(steps, 0)
        return {name: step() for name, step in steps.items()}

    def run(self, *, every_s: float, stop: threading.Event) -> None:
        """Sweep every so many seconds while this process leads, until `stop` is set. Nothing that fails ends it."""
        while not stop.is_set():
            try:
                with self._leading() as leads:
                    while not stop.is_set():
                        if leads():
                            self.sweep()
                        stop.wait(every_s)
            except (RegistryError, SQLAlchemyError, OSError) as error:
                _log.warning("the reconciler goes on after an error: %s", type(error).__name__)
                stop.wait(every_s)

    @contextmanager
    def _leading(self) -> Iterator[Callable[[], bool]]:
        """Give what says, each time, whether this process leads. On SQLite each does: they take turns anyway."""
        if self._db.engine.dialect.name != "postgresql":
            yield lambda: True
            return
        with self._db.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            # The lock lives as long as this connection; in the pool it would outlive its holder.
            connection.detach()
            # Whoever holds it gets it again, and so learns that the connection still stands.
            asked = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=LEADER_LOCK)
            yield lambda: bool(connection.scalar(asked))


@contextmanager
def in_background(reconciler: Reconciler, *, every_s: float) -> Iterator[None]:
    """Let a thread of this process sweep, for as long as the block lasts."""
    stop = threading.Event()
    thread = threading.Thread(
        target=reconciler.run, kwargs={"every_s": every_s, "stop": stop}, name="reconciler", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
