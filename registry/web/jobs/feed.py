"""What happens to jobs, for all who look at lists of them in one event loop: one query a tick, however many look.

While anybody looks, the process asks the database every `TICK_S` for events that it has not seen, reads the jobs that
they are about, and hands each to those who may see it. It keeps the last ones, for readers whose page is some seconds old.
Numbers of events are not committed in their order, so it looks at those of the last `_OVERLAP_S` again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from anyio.lowlevel import RunVar
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from registry.db.database import Database
from registry.errors import RegistryError
from registry.http.ending import is_ending
from registry.jobs.lines import JobLine, JobLines
from registry.principal import Principal
from registry.web.rendering import render
from registry.web.sessions.service import Sessions

#: How often a process asks the database while anybody looks, in seconds.
TICK_S = 0.85
#: How often it looks at least whether all who look still may, and why jobs wait, in seconds. Both are done at a tick: a time
#: that isn't a little less than some ticks is a tick longer than it says.
TRUST_S, QUEUE_S = 0.8, 15.0
#: How long an event may take from its number to its commit: more than a statement may take.
_OVERLAP_S = 6.0
#: As many numbers of events before the page of the first reader are looked at, too.
_OVERLAP_EVENTS = 500
#: How many events are read at once, and of how many jobs.
_MOST_EVENTS, _MOST_JOBS = 5000, 500
#: How many changed jobs are kept for readers who come back, and wait for one who takes them slowly.
_KEPT, _MOST_PENDING = 2000, 200

_log = logging.getLogger(__name__)

#: Why a reader is told to do otherwise: to load the list again, or the whole page, which leads to signing in.
Verdict = Literal["reload", "end"]


@dataclass(frozen=True)
class JobRow:
    """A job as all who may see it see it in a list; written once for all of them."""

    line: JobLine

    @cached_property
    def html(self) -> str:
        """The row of the table."""
        return render("jobs/row.html", job=self.line, gone=False)

    @cached_property
    def gone(self) -> str:
        """The same, where it isn't listed any more."""
        return render("jobs/row.html", job=self.line, gone=True)


@dataclass(eq=False)
class JobReader:
    """Somebody who looks at a list."""

    #: The digest of their session's secret.
    session: str
    who: Principal
    #: Whether a change of a job is one of what they look at.
    shows: Callable[[JobLine], bool]
    pending: dict[str, JobRow] = field(default_factory=dict)
    signal: asyncio.Event = field(default_factory=asyncio.Event)
    verdict: Verdict | None = None
    stopped: bool = False
    #: Whether they came after it was last looked why jobs wait.
    is_new: bool = True

    def take(self, rows: Iterable[JobRow]) -> None:
        """Note what has happened to jobs that they may see."""
        for row in rows:
            if self.who.may("read", row.line.namespace) and self.shows(row.line):
                self.pending[row.line.id] = row
        if len(self.pending) > _MOST_PENDING:
            self.tell("reload")
        elif self.pending:
            self.signal.set()

    def tell(self, verdict: Verdict) -> None:
        """End what they see with what to do now."""
        self.pending.clear()
        self.verdict = self.verdict or verdict
        self.signal.set()

    def stop(self) -> None:
        """Let them go, to come again."""
        self.stopped = True
        self.signal.set()

    def drain(self) -> list[JobRow]:
        """Return what has happened since the last call."""
        self.signal.clear()
        rows = list(self.pending.values())
        self.pending.clear()
        return rows


class _Kept(NamedTuple):
    seq: int
    at: float
    row: JobRow


class JobFeed:
    """What happens to jobs, in an event loop over one database."""

    def __init__(
        self,
        db: Database,
        sessions: Sessions,
        *,
        lines: JobLines | None = None,
        revive: Callable[[], object] | None = None,
        queue_s: float = QUEUE_S,
    ) -> None:
        """`revive` is called now and then while anybody looks: where nobody else sees to it that jobs are worked off."""
        self._db, self._sessions, self._revive, self._queue_s = db, sessions, revive, queue_s
        self._lines = lines or JobLines(db)
        self._followers: set[JobReader] = set()
        self._task: asyncio.Task[None] | None = None
        #: The one before, which ends only once the database has answered it.
        self._ending: asyncio.Task[None] | None = None
        #: The events of the last seconds that were seen, with the time; everything up to `_floor` was seen before.
        self._seen: dict[int, float] = {}
        self._floor = 0
        #: The jobs that changed last; all that changed after `_kept_from` are among them.
        self._kept: list[_Kept] = []
        self._kept_from = 0
        #: Jobs of which events were seen, and which have not been read yet, with the newest event of each.
        self._changed: dict[str, int] = {}
        self._standing: dict[str, tuple[int | None, str | None]] = {}
        #: The newest event of which everybody was told.
        self.newest = 0

    @asynccontextmanager
    async def following(self, follower: JobReader, after: int) -> AsyncIterator[JobReader]:
        """Until the end of the block, tell somebody what has happened to jobs since the event `after`."""
        while self._ending is not None and not self._ending.done():
            # It would count events as seen of which nobody is told any more, and let this follower go.
            await asyncio.wait([self._ending])
        if self._task is None or self._task.done():
            self._begin(after)
        if after < self._kept_from:
            follower.tell("reload")
        recent = time.monotonic() - _OVERLAP_S
        follower.take(kept.row for kept in self._kept if kept.seq > after or kept.at > recent)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers and self._task is not None:
                self._task.cancel()
                self._ending, self._task = self._task, None

    def _begin(self, after: int) -> None:
        self._seen, self._kept, self._changed, self._standing = {}, [], {}, {}
        self._floor = self._kept_from = max(0, after - _OVERLAP_EVENTS)
        self.newest = after
        self._task = asyncio.get_running_loop().create_task(self._look_on(), name="job feed")

    async def _look_on(self) -> None:
        try:
            await self._tick()
        finally:
            # Whatever ended it: they come again, and begin it anew.
            for follower in self._followers:
                follower.stop()

    async def _tick(self) -> None:
        trusted = standing = time.monotonic()
        rows: list[tuple[int, JobRow]] = []
        while True:
            now = time.monotonic()
            if is_ending():
                for follower in self._followers:
                    follower.stop()
            try:
                rows += await run_in_threadpool(self.look)
                # Before anything is handed out: what happens after somebody has lost a right is not for them.
                if rows or now - trusted >= TRUST_S:
                    trusted = now
                    await self._check()
                self._hand_out(rows)
                rows = []
                if now - standing >= self._queue_s:
                    standing = now
                    await self._look_at_queue()
            except (RegistryError, SQLAlchemyError) as error:
                # What happens meanwhile is read when the database is there again.
                _log.debug("what happens to jobs could not be read: %s", type(error).__name__)
            await asyncio.sleep(max(0.0, TICK_S - (time.monotonic() - now)))

    def look(self) -> list[tuple[int, JobRow]]:
        """Read the events that were not seen, and the jobs that they are about, with the newest event of each."""
        now = time.monotonic()
        found = self._lines.events_after(self._floor, most=_MOST_EVENTS)
        for seq, job_id in found:
            if seq not in self._seen:
                self._seen[seq] = now
                self._changed[job_id] = max(seq, self._changed.get(job_id, 0))
        # So many at once are not looked at twice.
        until = now if len(found) == _MOST_EVENTS else now - _OVERLAP_S
        old = [seq for seq, at in self._seen.items() if at <= until]
        self._floor = max([self._floor, *old])
        for seq in [seq for seq in self._seen if seq <= self._floor]:
            del self._seen[seq]
        if not self._changed:
            return []
        some = dict(list(self._changed.items())[:_MOST_JOBS])
        lines = self._lines.of(some)
        for job_id in some:
            del self._changed[job_id]
        return [(some[line.id], JobRow(line)) for line in lines]

    def _hand_out(self, rows: Collection[tuple[int, JobRow]]) -> None:
        if not rows:
            return
        now = time.monotonic()
        self.newest = max(self.newest, max(seq for seq, _ in rows))
        self._kept += [_Kept(seq, now, row) for seq, row in rows]
        if len(self._kept) > _KEPT:
            gone, self._kept = self._kept[:-_KEPT], self._kept[-_KEPT:]
            self._kept_from = max(self._kept_from, max(kept.seq for kept in gone))
        for follower in self._followers:
            follower.take(row for _, row in rows)

    async def _check(self) -> None:
        """Let those go whose session has ended; whose rights have changed loads the list again."""
        asked = list(self._followers)
        found = await run_in_threadpool(self._sessions.standing, {follower.session for follower in asked})
        changed = {one.session for one in asked if (who := found.get(one.session)) and who.grants != one.who.grants}
        if changed:
            # The list that they load is that of the rights that they have now.
            self._sessions.note_changed(changed)
        for follower in asked:
            who = found.get(follower.session)
            if who is None:
                follower.tell("end")
            elif who.grants != follower.who.grants:
                follower.who = who
                follower.tell("reload")

    async def _look_at_queue(self) -> None:
        """Tell why jobs wait where that has changed: it follows from what others do, so no event of theirs says so."""
        if self._revive is not None:
            await run_in_threadpool(self._revive)
        lines = await run_in_threadpool(self._lines.waiting)
        rows = [JobRow(line) for line in lines]
        changed = [row for row in rows if self._standing.get(row.line.id) != (row.line.ahead, row.line.waits)]
        for follower in self._followers:
            follower.take(rows if follower.is_new else changed)
            follower.is_new = False
        self._standing = {line.id: (line.ahead, line.waits) for line in lines}


_feeds: RunVar[dict[str, JobFeed]] = RunVar("registry_job_feeds")


def feed_of(db: Database, sessions: Sessions, revive: Callable[[], object] | None = None) -> JobFeed:
    """Return the feed of the running event loop over a database."""
    try:
        feeds = _feeds.get()
    except LookupError:
        feeds = {}
        _feeds.set(feeds)
    return feeds.setdefault(db.url, JobFeed(db, sessions, revive=revive))
