"""One feed for all watchers, by long poll or as a stream: a watcher sleeps until something has happened to its job.

While anybody waits, a server process asks the database every `TICK_S` which jobs have new events. It may miss one,
because sequence numbers are not committed in order: so each watcher also looks for itself every `LOOK_S`.

How many may watch is limited: each of them holds a connection, and asks the database again and again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from anyio.lowlevel import RunVar
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from registry.db.database import Database
from registry.errors import RateLimited, RegistryError
from registry.jobs.models import JobEvent
from registry.pools import Pool
from registry.principal import Principal
from sdk.schemas.events import Event
from sdk.schemas.jobs import JobState

#: How often a process asks the database while anybody waits, in seconds.
TICK_S = 0.25
#: How long a watcher waits before it looks for itself, in seconds.
LOOK_S = 2.0

_log = logging.getLogger(__name__)


Pool(
    "watchers",
    waits="streams and long polls, until something happens to their job, or in their namespace",
    at_once="`REGISTRY_MAX_STREAMS` (1,000), of which `REGISTRY_MAX_STREAMS_PER_TOKEN` (32) of one token",
    item="500 events at a time; a stream lasts as long as its job, a long poll 30 s",
    share="as many as it leaves to all others",
)


class EventFeed:
    """What happens to jobs, for whoever follows them in an event loop over one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        #: By job, what wakes each of its watchers.
        self._signals: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    async def follow(
        self, job_id: str, read: Callable[[], Awaitable[tuple[list[Event], JobState]]], *, until: float = math.inf
    ) -> AsyncGenerator[tuple[list[Event], JobState]]:
        """Yield what `read` finds of a job, its next events and its state: at once, then whenever there may be more.

        It ends with the first finding of no events in a final state, or of any at the time `until` of the monotonic
        clock. Raises what `read` raises.
        """
        with self._signal_of(job_id) as signal:
            while True:
                # Cleared before it is read, so that anything that happens in between sets it again.
                signal.clear()
                found, state = await read()
                yield found, state
                left_s = until - time.monotonic()
                if left_s <= 0 or (state.is_final and not found):
                    return
                if not found:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(left_s, LOOK_S)):
                            await signal.wait()

    @contextmanager
    def _signal_of(self, job_id: str) -> Iterator[asyncio.Event]:
        """Until the end of the block, an event that is set whenever something happens to a job."""
        signal = asyncio.Event()
        self._signals.setdefault(job_id, set()).add(signal)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look_on(), name="event feed")
        try:
            yield signal
        finally:
            self._signals[job_id].discard(signal)
            if not self._signals[job_id]:
                del self._signals[job_id]
            if not self._signals:
                self._task.cancel()
                self._task = None

    async def _look_on(self) -> None:
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
                    signal.set()

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


class Watchers:
    """Counts the streams and long polls of one process: there is a limit in all and one for each token, and a namespace
    may have no more than it leaves to the others.
    """

    def __init__(self, *, most: int, most_of_token: int) -> None:
        self._most = most
        self._most_of_token = most_of_token
        self._by_token: Counter[str] = Counter()
        self._by_payer: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many there are."""
        return self._by_token.total()

    @contextmanager
    def entered(self, who: Principal) -> Iterator[None]:
        """Count one more until the end of the block. Raises RateLimited."""
        token, payer = who.owner, who.payer(self._by_payer)
        left = self._most - self._by_token.total()
        if self._by_token[token] >= self._most_of_token:
            raise RateLimited(
                f"this token has {self._most_of_token} streams and waits open already (REGISTRY_MAX_STREAMS_PER_TOKEN); end some, or "
                "ask again without wait_s"
            )
        if not left:
            raise RateLimited(
                f"{self._most} streams are already open (REGISTRY_MAX_STREAMS); ask again without wait_s, or later"
            )
        # So some are left for the next one, however many namespaces take all they can.
        if self._by_payer[payer] >= left:
            raise RateLimited(
                "this namespace's tokens have as many streams and waits open as all others may together (REGISTRY_MAX_STREAMS); end some, or "
                "ask again without wait_s"
            )
        self._by_token[token] += 1
        self._by_payer[payer] += 1
        try:
            yield
        finally:
            for counter, key in ((self._by_token, token), (self._by_payer, payer)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
