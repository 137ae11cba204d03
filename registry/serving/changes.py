"""A feed that says only "look": a gateway waits until its table may have changed, and then asks for the table.

A waiter is an entry in a dictionary of the event loop: it holds no thread and no connection to the database. While anybody
waits, the process asks the database every `TICK_S` in which namespaces something was changed. It may miss a change, because
entries of the audit trail are not committed in order: so gateways look by themselves as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from anyio.lowlevel import RunVar
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from registry.access.models import AuditEntry
from registry.db.database import Database
from registry.errors import RegistryError
from registry.http.ending import is_ending

#: How often a process asks the database while anybody waits, in seconds.
TICK_S = 0.25
#: How often a waiter looks whether its client has gone, or the server ends, in seconds.
_PRESENT_S = 1.0

_log = logging.getLogger(__name__)


class ChangeFeed:
    """What changes in namespaces, for whoever waits for it in an event loop over one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        #: By namespace, what wakes each of its waiters.
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        #: Set once it is known which entry is the newest: what comes later is noticed.
        self._begun = asyncio.Event()

    @asynccontextmanager
    async def watching(self, namespace: str) -> AsyncIterator[asyncio.Event]:
        """Until the end of the block, an event that is set once something may have changed in a namespace since it began."""
        changed = asyncio.Event()
        self._waiting.setdefault(namespace, set()).add(changed)
        if self._task is None:
            self._begun.clear()
            self._task = asyncio.get_running_loop().create_task(self._look_on(), name="serving feed")
        try:
            await self._begun.wait()
            yield changed
        finally:
            self._waiting[namespace].discard(changed)
            if not self._waiting[namespace]:
                del self._waiting[namespace]
            if not self._waiting:
                self._task.cancel()
                self._task = None

    async def _look_on(self) -> None:
        newest: int | None = None
        while True:
            try:
                changed, newest = await run_in_threadpool(self._look, newest)
            except (RegistryError, SQLAlchemyError) as error:
                # Gateways will get the error when they ask for the table.
                _log.debug("changes could not be read: %s", type(error).__name__)
                changed = set()
            self._begun.set()
            for namespace in changed & self._waiting.keys():
                for event in self._waiting[namespace]:
                    event.set()
            await asyncio.sleep(TICK_S)

    def _look(self, newest: int | None) -> tuple[set[str], int]:
        """Return the namespaces with entries after `newest` (None at first: none of them), and the newest entry now."""
        with self._db.read() as session:
            if newest is None:
                return set(), session.scalar(select(func.max(AuditEntry.pk))) or 0
            query = select(AuditEntry.namespace, func.max(AuditEntry.pk)).where(AuditEntry.pk > newest)
            rows = session.execute(query.group_by(AuditEntry.namespace)).all()
        return {namespace for namespace, _ in rows}, max((pk for _, pk in rows), default=newest)


async def wait_until(changed: asyncio.Event, is_gone: Callable[[], Awaitable[bool]], *, wait_s: float) -> bool:
    """Return whether the event is set within so many seconds; earlier if the client is gone, or the server ends."""
    end_s = time.monotonic() + wait_s
    while not changed.is_set():
        left_s = end_s - time.monotonic()
        if left_s <= 0 or is_ending() or await is_gone():
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, _PRESENT_S)):
                await changed.wait()
    return True


_feeds: RunVar[dict[str, ChangeFeed]] = RunVar("registry_change_feeds")


def feed_of(db: Database) -> ChangeFeed:
    """Return the feed of the running event loop over a database."""
    try:
        feeds = _feeds.get()
    except LookupError:
        feeds = {}
        _feeds.set(feeds)
    return feeds.setdefault(db.url, ChangeFeed(db))
