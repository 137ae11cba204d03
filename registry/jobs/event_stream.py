"""What happens to a job, as it happens: by long poll, and as a stream of server-sent events."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated

from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.errors import RegistryError
from registry.http.routes import Reader, answered, errors_in_json, room, service
from registry.jobs import events
from registry.jobs.event_feed import Watchers, feed_of
from registry.jobs.service import Jobs
from registry.jobs.views import JobId, JobsDep
from registry.principal import Principal
from sdk.schemas.events import Event
from sdk.schemas.jobs import JobState
from sdk.schemas.wire import Wire

router = room("/jobs", "jobs")

DatabaseDep = Annotated[Database, service(Database)]
TokensDep = Annotated[Tokens, service(Tokens)]
WatchersDep = Annotated[Watchers, service(Watchers)]

After = Annotated[int, Query(ge=0, le=2**62, description="`seq` of the last event already known; 0 for none.")]

#: A stream without events sends a comment this often, in seconds, so that no proxy considers it dead.
_KEEP_ALIVE_S = 15.0
#: How often a stream checks that its token is still valid, in seconds.
_TRUST_S = 5.0
#: How many events a stream reads at once: a client that takes them slowly keeps as many in memory.
_AT_ONCE = 32
#: After how long a client that lost the stream reconnects, in milliseconds.
_RETRY_MS = 3000


#: Nothing in between may cache or buffer a stream.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


#: For OpenAPI: one event of the stream.
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["state", "progress", "log", "end", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


class EventStream(StreamingResponse):
    """Server-sent events. However the request ends, `held` is left, even if nothing was sent."""

    media_type = "text/event-stream"

    @cached_property
    def held(self) -> ExitStack:
        """What the stream holds; not of the constructor, whose signature FastAPI reads."""
        return ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self.held:
            await super().__call__(scope, receive, send)


@router.get("/{job_id}/events")
async def read_job_events(
    request: Request,
    job_id: JobId,
    db: DatabaseDep,
    jobs: JobsDep,
    watchers: WatchersDep,
    who: Reader,
    after: After = 0,
    wait_s: Annotated[float, Query(ge=0, le=30)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    last: Annotated[int | None, Query(ge=1, le=1000, description="Only this many, the most recent.")] = None,
) -> list[Event]:
    """Events after the cursor `after`; waits up to `wait_s` for one, unless the job has ended."""
    read = partial(answered, events.read, db, job_id=job_id, after=after, limit=limit, last=last, who=who)
    # A caller that doesn't wait is not counted.
    with watchers.entered(who) if wait_s else nullcontext():
        async with aclosing(feed_of(db).follow(job_id, read, until=time.monotonic() + wait_s)) as findings:
            async for found, state in findings:
                if found or state.is_final:
                    return found
                if await request.is_disconnected():
                    break
    await run_in_threadpool(jobs.revive)
    return []


@router.get(
    "/{job_id}/events/stream",
    response_class=EventStream,
    responses={
        200: {
            "description": "Events until the job has ended, then `end` with the job as it is then.",
            "content": {EventStream.media_type: {"schema": _EVENT}},
        },
        **errors_in_json(),
    },
)
async def stream_job_events(
    request: Request,
    job_id: JobId,
    db: DatabaseDep,
    tokens: TokensDep,
    jobs: JobsDep,
    watchers: WatchersDep,
    who: Reader,
    after: After = 0,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=2**62,
            description="Like `after`, and takes precedence: browsers send it by themselves.",
        ),
    ] = None,
    for_s: Annotated[
        float | None,
        Query(gt=0, le=86_400, description="End after this many seconds, to be continued; left out: never."),
    ] = None,
) -> EventStream:
    """Events as server-sent events: `id` is `seq`, `event` the kind, `data` the event as `GET …/events` gives it.

    Ends with the event `end`, whose data is the job, once that is final; with `error`, whose data is an error as other
    requests get it, if the token was revoked or the database is unavailable.
    """
    _, secret = get_authorization_scheme_param(request.headers.get("Authorization"))
    after = after if last_event_id is None else last_event_id
    # A caller without a token, as in an embedded registry, has none that could be revoked.
    reader = _Reader(db, tokens, jobs, job_id, who, None if who.token_id is None else secret, after)
    # Anything to be refused is refused before the stream begins.
    await answered(events.read, db, job_id=job_id, after=after, limit=1, who=who)
    until = math.inf if for_s is None else time.monotonic() + for_s
    stream = EventStream(_stream(reader, until), headers=_HEADERS)
    stream.held.enter_context(watchers.entered(who))
    return stream


@dataclass
class _Reader:
    """Who reads which job's events, and how far."""

    db: Database
    tokens: Tokens
    jobs: Jobs
    job_id: str
    who: Principal
    #: None if nobody has a token.
    secret: str | None
    after: int
    #: When the token was checked, by the monotonic clock.
    checked: float = field(default_factory=time.monotonic)

    async def read(self) -> tuple[list[Event], JobState]:
        """The next events, and the job's state. Raises Unauthenticated, NotFound, Unavailable."""
        return await run_in_threadpool(self._read)

    def _read(self) -> tuple[list[Event], JobState]:
        now = time.monotonic()
        if self.secret is not None and now - self.checked >= _TRUST_S:
            self.who, self.checked = self.tokens.check(self.secret), now
        found, state = events.read(self.db, job_id=self.job_id, after=self.after, limit=_AT_ONCE, who=self.who)
        self.after = found[-1].seq if found else self.after
        return found, state

    async def end(self) -> Wire:
        """The ended job. Raises NotFound, Unavailable."""
        return await run_in_threadpool(self.jobs.get, self.job_id, who=self.who)


async def _stream(reader: _Reader, until: float) -> AsyncIterator[str]:
    spoke = time.monotonic()
    yield f"retry: {_RETRY_MS}\n\n"
    try:
        async with aclosing(feed_of(reader.db).follow(reader.job_id, reader.read, until=until)) as findings:
            async for found, state in findings:
                for event in found:
                    yield _message(event.kind, event, seq=event.seq)
                if found:
                    spoke = time.monotonic()
                elif state.is_final:
                    yield _message("end", await reader.end())
                elif time.monotonic() - spoke >= _KEEP_ALIVE_S:
                    spoke = time.monotonic()
                    yield ":\n\n"
    except RegistryError as error:
        yield _message("error", error.reply())


def _message(kind: str, data: Wire, *, seq: int | None = None) -> str:
    # The JSON contains no line feed, which would end the line of `data`.
    number = "" if seq is None else f"id: {seq}\n"
    return f"{number}event: {kind}\ndata: {data.model_dump_json()}\n\n"
