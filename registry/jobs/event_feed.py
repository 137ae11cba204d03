"""One query for all watchers: a watcher of a job sleeps until something has happened to the job.

While anybody waits, a server process asks the database every `TICK_S` which jobs have new events. It may miss one,
because sequence numbers are not committed in order: so each watcher also looks for itself every `LOOK_S`.
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

#: How often a process asks the database while anybody waits, in seconds.
TICK_S = 0.25
#: How long a watcher waits before it looks for itself, in seconds.
LOOK_S = 2.0

_log = logging.getLogger(__name__)


class JobSignal:
    """Wakes one watcher of one job. Clear it before you look, so that anything that happens in between sets it
    again.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake the watcher."""
        self._event.set()

    def clear(self) -> None:
        """Forget that something has happened."""
        self._event.clear()

    async def wait(self, timeout_s: float) -> None:
        """Return once something has happened, or after `LOOK_S` or `timeout_s` in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, LOOK_S)):
                await self._event.wait()


class EventFeed:
    """The signals of an event loop over one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._signals: dict[str, set[JobSignal]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, job_id: str) -> Iterator[JobSignal]:
        """A signal that is set whenever something happens to a job, until the end of the block."""
        signal = JobSignal()
        self._signals.setdefault(job_id, set()).add(signal)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="event feed")
        try:
            yield signal
        finally:
            self._signals[job_id].discard(signal)
            if not self._signals[job_id]:
                del self._signals[job_id]
            if not self._signals:
                self._task.cancel()
                self._task = None

    async def _follow(self) -> None:
        newest: int | None = None
        while True:
            await asyncio.sleep(TICK_S)
            try:
                jobs, newest = await run_in_threadpool(self._look, newest)
            except (RegistryError, SQLAlchemyError) as error:
                # The watchers will get the error when they look for themselves.
                _log.debug("the events could not be read: %s", type(error).__name__)
                continue
            for job_id in self._signals if jobs is None else jobs & self._signals.keys():
                for signal in self._signals[job_id]:
                    signal.notify()

    def _look(self, newest: int | None) -> tuple[set[str] | None, int]:
        """Return the jobs with events after `newest` (None at first, for all of them), and the newest event now."""
        with self._db.read() as session:
            if newest is None:
                return None, session.scalar(select(func.max(JobEvent.seq))) or 0
            query = select(JobEvent.job_id, func.max(JobEvent.seq)).where(JobEvent.seq > newest)
            rows = session.execute(query.group_by(JobEvent.job_id)).all()
        return {job_id for job_id, _ in rows}, max((seq for _, seq in rows), default=newest)


_feeds: RunVar[dict[str, EventFeed]] = RunVar("registry_event_feeds")


def feed_of(db: Database) -> EventFeed:
    """Return the feed of the running event loop over a database."""
    try:
        feeds = _feeds.get()
    except LookupError:
        feeds = {}
        _feeds.set(feeds)
    return feeds.setdefault(db.url, EventFeed(db))
