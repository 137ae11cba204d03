"""What happens to a job, as it happens: by long poll, and as a stream of server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.errors import RegistryError
from registry.http.plain_text import errors_in_json
from registry.http.routes import Reader, answered, room, service
from registry.jobs import events
from registry.jobs.event_feed import feed_of
from registry.jobs.service import Jobs
from registry.jobs.watch_limits import Watchers
from registry.principal import Principal
from sdk.schemas.events import Event
from sdk.schemas.jobs import JobState
from sdk.schemas.wire import Wire

router = room("/jobs", "jobs")

DatabaseDep = Annotated[Database, service(Database)]
TokensDep = Annotated[Tokens, service(Tokens)]
JobsDep = Annotated[Jobs, service(Jobs)]
WatchersDep = Annotated[Watchers, service(Watchers)]

JobId = Annotated[str, Path(max_length=64)]
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
    """Server-sent events. However the request ends, `leave` is called, even if nothing was sent."""

    media_type = "text/event-stream"

    #: Set by the view: FastAPI reads the constructor's signature.
    leave: Callable[[], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.leave is not None:
                self.leave()


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
    deadline = time.monotonic() + wait_s
    # A caller that doesn't wait is not counted.
    counted = watchers.entered(who) if wait_s else nullcontext()
    with counted, feed_of(db).watch(job_id) as signal:
        while True:
            signal.clear()
            found, state = await answered(events.read, db, job_id=job_id, after=after, limit=limit, last=last, who=who)
            if found or state.is_final:
                return found
            left = deadline - time.monotonic()
            if left <= 0 or await request.is_disconnected():
                await run_in_threadpool(jobs.revive)
                return []
            await signal.wait(left)


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
    deadline = None if for_s is None else time.monotonic() + for_s
    stream = EventStream(_stream(reader, deadline), headers=_HEADERS)
    stream.leave = watchers.enter(who)
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

    def read(self, *, trusted: bool) -> tuple[list[Event], JobState]:
        """The next events, and the job's state. Raises Unauthenticated, NotFound, Unavailable."""
        if not trusted and self.secret is not None:
            self.who = self.tokens.check(self.secret)
        found, state = events.read(self.db, job_id=self.job_id, after=self.after, limit=_AT_ONCE, who=self.who)
        self.after = found[-1].seq if found else self.after
        return found, state

    def end(self) -> Wire:
        """The ended job."""
        return self.jobs.get(self.job_id, who=self.who)


async def _stream(reader: _Reader, deadline: float | None) -> AsyncIterator[str]:
    checked = spoke = time.monotonic()
    yield f"retry: {_RETRY_MS}\n\n"
    with feed_of(reader.db).watch(reader.job_id) as signal:
        while True:
            signal.clear()
            now = time.monotonic()
            trusted = now - checked < _TRUST_S
            checked = checked if trusted else now
            try:
                found, state = await run_in_threadpool(reader.read, trusted=trusted)
                end = await run_in_threadpool(reader.end) if state.is_final and not found else None
            except RegistryError as error:
                yield _message("error", error.reply())
                return
            for event in found:
                yield _message(event.kind, event, seq=event.seq)
            if end is not None:
                yield _message("end", end)
                return
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            if found:
                spoke = now
                continue
            if now - spoke >= _KEEP_ALIVE_S:
                spoke = now
                yield ":\n\n"
            await signal.wait(float("inf") if deadline is None else deadline - now)


def _message(kind: str, data: Wire, *, seq: int | None = None) -> str:
    # The JSON contains no line feed, which would end the line of `data`.
    number = "" if seq is None else f"id: {seq}\n"
    return f"{number}event: {kind}\ndata: {data.model_dump_json()}\n\n"
