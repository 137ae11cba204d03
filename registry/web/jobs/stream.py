"""Streams of what happens to jobs, as server-sent events for pages.

A message without a name has rows of the table. `changed` says that the page has more to show, `reload` that the list has to be
loaded again, `poll` that there is no stream at the moment, and `end` that the session has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from fastapi import Request
from starlette.responses import Response

from registry.errors import Invalid, RateLimited
from registry.http.routes import service_of
from registry.jobs.event_feed import Watchers
from registry.jobs.event_stream import EventStream
from registry.jobs.lines import JobLine
from registry.principal import Principal
from registry.web.jobs.feed import JobFeed, JobReader, JobRow, feed_of
from registry.web.pages import HEADERS

#: A stream without messages sends a comment this often, in seconds, so that no proxy considers it dead.
_KEEP_ALIVE_S = 15.0
#: How long a stream lasts, in seconds: then the list is loaded again, whatever it may have missed.
_LASTS_S = 3600.0
#: After how long a browser that lost the stream reconnects, in milliseconds.
_RETRY_MS = 2000
#: How often a page of one noun is told that it has changed, in seconds.
_CHANGED_EVERY_S = 1.0
#: Nothing in between may buffer or compress a stream.
_HEADERS = {**HEADERS, "X-Accel-Buffering": "no"}

#: What is sent of the rows of a follower's page.
Writes = Callable[[list[JobRow]], str]


def cursor_of(newest: int, who: Principal) -> str:
    """Return where a stream goes on: after an event, for a reader with these rights.

    >>> cursor_of(7, Principal("ana")) == cursor_of(7, Principal("ben")), cursor_of(7, Principal("ana")).split(".")[0]
    (True, '7')
    """
    rights = "\n".join(f"{namespace} {role}" for namespace, role in sorted(who.grants.items()))
    return f"{newest}.{hashlib.sha256(rights.encode()).hexdigest()[:16]}"


def feed_for(request: Request) -> JobFeed:
    """Return what tells pages of jobs."""
    services = request.app.state.services
    # In somebody's own folder nobody else sees to it that jobs are worked off.
    revive = services.jobs.revive if services.settings.embedded_home is not None else None
    return feed_of(services.db, services.sessions, revive)


def stream(
    request: Request, feed: JobFeed, who: Principal, after: str, shows: Callable[[JobLine], bool], writes: Writes | None
) -> Response:
    """Return a stream of what happens to the jobs that a page shows. Without `writes` the page is only told to look.

    Raises Invalid for a cursor that is none.
    """
    cursor = request.headers.get("Last-Event-ID") or after
    seq, _, _ = cursor.partition(".")
    if not (seq.isascii() and seq.isdigit() and len(seq) < 19):
        raise Invalid("the cursor did not come from this page; load the page again", param="after")
    follower = JobReader(request.scope["session"].digest, who, shows)
    if cursor != cursor_of(int(seq), who):
        # What is on the page was shown for other rights.
        follower.tell("reload")
    answer = EventStream(_messages(feed, follower, int(seq), writes), headers=_HEADERS)
    try:
        answer.held.enter_context(service_of(request, Watchers).entered(who))
    except RateLimited:
        # As a message, because a browser reports any other status as a fault of the page.
        return EventStream(_only("poll"), headers=_HEADERS)
    return answer


async def _only(event: str) -> AsyncIterator[str]:
    yield _message("", event=event)


async def _messages(feed: JobFeed, follower: JobReader, after: int, writes: Writes | None) -> AsyncIterator[str]:
    ends = time.monotonic() + _LASTS_S
    yield f"retry: {_RETRY_MS}\n\n"
    async with feed.following(follower, after):
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEEP_ALIVE_S):
                    await follower.signal.wait()
            rows = follower.drain()
            if follower.stopped:
                return
            if follower.verdict is not None or time.monotonic() > ends:
                yield _message("", event=follower.verdict or "reload")
                return
            if not rows:
                yield ":\n\n"
            elif writes is not None:
                yield _message(writes(rows), seq=cursor_of(feed.newest, follower.who))
            else:
                yield _message("", event="changed", seq=cursor_of(feed.newest, follower.who))
                await asyncio.sleep(_CHANGED_EVERY_S)


def _message(data: str, *, event: str | None = None, seq: str | None = None) -> str:
    head = ("" if seq is None else f"id: {seq}\n") + ("" if event is None else f"event: {event}\n")
    # Text of tenants may hold any kind of line break, each of which would end the line.
    lines = "\n".join(f"data: {line}" for line in data.replace("\r", "\n").split("\n"))
    return f"{head}{lines}\n\n"
