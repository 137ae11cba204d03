"""One look for all who wait: who watches a job sleeps until something has happened to it.

A server process asks the database once a tick, while anybody waits, to which jobs something has happened. It may miss
something, since sequence numbers are committed out of their order: whoever waits looks by themselves every `LOOK_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from anyio.lowlevel import RunVar
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from registry.db.database import Database
from registry.errors import RegistryError
from registry.jobs.models import JobEvent

#: How often a process looks while anybody waits, in seconds.
TICK_S = 0.25
#: How long anybody waits before they look by themselves, in seconds.
LOOK_S = 2.0

_log = logging.getLogger(__name__)


class Bell:
    """Rings for one watcher of one job. Silence it before you look, so that what comes in between rings it again."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the watcher."""
        self._rung.set()

    def silence(self) -> None:
        """Forget that it has rung."""
        self._rung.clear()

    async def wait(self, timeout_s: float) -> None:
        """Return once it has rung, and after `LOOK_S` or `timeout_s` in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, LOOK_S)):
                await self._rung.wait()


class Tail:
    """The bells of an event loop over one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._bells: dict[str, set[Bell]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Bell]:
        """A bell that rings when something has happened to a job, until the end of the block."""
        bell = Bell()
        self._bells.setdefault(job_id, set()).add(bell)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="tail")
        try:
            yield bell
        finally:
            self._bells[job_id].discard(bell)
            if not self._bells[job_id]:
                del self._bells[job_id]
            if not self._bells:
                self._task.cancel()
                self._task = None

    async def _follow(self) -> None:
        newest: int | None = None
        while True:
            await asyncio.sleep(TICK_S)
            try:
                jobs, newest = await run_in_threadpool(self._look, newest)
            except (RegistryError, SQLAlchemyError) as error:
                # Whoever waits hears of it when they look by themselves.
                _log.debug("nothing was seen of the events: %s", type(error).__name__)
                continue
            for job_id in self._bells if jobs is None else jobs & self._bells.keys():
                for bell in self._bells[job_id]:
                    bell.ring()

    def _look(self, newest: int | None) -> tuple[set[str] | None, int]:
        """To which jobs something has happened since `newest`, and what is the newest now; all of them at first."""
        with self._db.read() as session:
            if newest is None:
                return None, session.scalar(select(func.max(JobEvent.seq))) or 0
            query = select(JobEvent.job_id, func.max(JobEvent.seq)).where(JobEvent.seq > newest)
            rows = session.execute(query.group_by(JobEvent.job_id)).all()
        return {job_id for job_id, _ in rows}, max((seq for _, seq in rows), default=newest)


_tails: RunVar[dict[str, Tail]] = RunVar("registry_tails")


def tail_of(db: Database) -> Tail:
    """The tail of the running event loop over a database."""
    try:
        tails = _tails.get()
    except LookupError:
        tails = {}
        _tails.set(tails)
    return tails.setdefault(db.url, Tail(db))
