"""Requests with an `Idempotency-Key` are run once, and answered as often as they are sent."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import Conflict, Invalid, RegistryError
from registry.http.idempotency.service import Answer, Keyed, KeyedRequests, Turn, owner_of
from registry.http.paths import area_of
from registry.http.routes import answered
from registry.pools import Pool
from registry.principal import Principal
from sdk.formats.api_paths import API

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARS = 200
#: The longest answer that is kept, in bytes.
MAX_ANSWER_BYTES = 1024 * 1024
#: How many requests wait for the answer to an earlier one at a time.
MOST_WAITING = 64
Pool(
    "waits for an earlier answer",
    waits="requests with the `Idempotency-Key` of one that is still worked on; others than these are told so at once",
    at_once=str(MOST_WAITING),
    item="10 s, in which the answer is looked for 200 times",
    share="as many as it leaves to all others",
)

_METHODS = ("POST", "PUT", "PATCH")
_KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY_CHARS}}}")
#: Their keys are kept in the transaction that creates a job, or gives it to a worker, so that no crash can come in
#: between.
OWN_KEY = (f"{API}/jobs", f"{API}/jobs/claim")
#: Its answer contains a secret, which is not stored anywhere.
_TOKENS = f"{API}/tokens"
#: Their answers contain signed URLs, which are credentials; it does no harm to open a session twice.
_UPLOADS = re.compile(rf"{API}/uploads(/[^/]+/parts)?")
#: Answers that say nothing about the request itself: too many requests, and no such method.
_PASSING = (405, 429)

_log = logging.getLogger(__name__)


class AnswerOnce:
    """ASGI middleware behind the gatekeeper: it runs the same request with the same key from the same caller only once.

    `timeout_s` is how long a request waits for the answer to an earlier one; `life_s` is how often the earlier one
    tells the others that it is still being worked on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keyed: KeyedRequests,
        timeout_s: float = 10.0,
        look_s: float = 0.05,
        life_s: float = 15.0,
    ) -> None:
        self._app = app
        self._keyed = keyed
        self._timeout_s = timeout_s
        self._look_s = look_s
        self._life_s = life_s
        #: By namespace, how many requests wait for the answer to an earlier one.
        self._waiting: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request, or answer it as it was answered before."""
        path = scope.get("path", "")
        if (
            scope["type"] != "http"
            or scope["method"] not in _METHODS
            or not area_of(path).takes_json
            or not any(name == b"idempotency-key" for name, _ in scope["headers"])
        ):
            await self._app(scope, receive, send)
            return
        try:
            key = _key(scope)
            if path in OWN_KEY or _UPLOADS.fullmatch(path):
                await self._app(scope, receive, send)
                return
            body = await _body(receive)
            found = await self._begin(_request(scope, key, body), scope["principal"])
        except RegistryError as error:
            answer = JSONResponse(error.reply().model_dump(), status_code=error.status, headers=error.headers)
            await answer(scope, receive, send)
            return
        if isinstance(found, Answer):
            await _replay(found)(scope, receive, send)
            return
        await self._run(found, scope, _given(body, receive), send)

    async def _begin(self, request: Keyed, who: Principal) -> Turn | Answer:
        """Return the turn to run a request, or its answer. Raises Conflict if somebody else is still running it."""
        found = await answered(self._keyed.begin, request)
        if found is not None:
            return found
        holder = who.payer(self._waiting)
        # So a namespace always leaves some to the others.
        if self._waiting[holder] >= MOST_WAITING - self._waiting.total():
            raise _in_progress()
        self._waiting[holder] += 1
        try:
            return await self._wait(request)
        finally:
            self._waiting[holder] -= 1
            if not self._waiting[holder]:
                del self._waiting[holder]

    async def _wait(self, request: Keyed) -> Turn | Answer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while True:
            # Usually the answer comes soon, and looking for it is cheaper than asking for a turn.
            for _ in range(20):
                if loop.time() >= deadline:
                    raise _in_progress()
                await asyncio.sleep(self._look_s)
                if (answer := await answered(self._keyed.look, request)) is not None:
                    return answer
            if (found := await answered(self._keyed.begin, request)) is not None:
                return found

    async def _run(self, turn: Turn, scope: Scope, receive: Receive, send: Send) -> None:
        recorder = _Recorder(send)
        broken = True
        async with self._alive(turn) as held:
            try:
                await self._app(scope, receive, recorder.send)
                broken = False
            except asyncio.CancelledError:
                # A thread may still be doing what was asked, so the row stays, as if the process had died.
                broken = False
                raise
            finally:
                if broken:
                    await run_in_threadpool(self._keyed.forget, held[-1])
        answer = recorder.answer()
        try:
            # Kept before it is sent: a caller who has seen an answer never gets a different one.
            if answer is None:
                await run_in_threadpool(self._keyed.forget, held[-1])
            else:
                await run_in_threadpool(self._keyed.finish, held[-1], answer)
        except RegistryError as error:
            # What was asked is done, so its answer is sent.
            _log.warning("the answer to a request with an idempotency key could not be stored: %s", error.message)
        await recorder.flush()

    @asynccontextmanager
    async def _alive(self, turn: Turn) -> AsyncIterator[list[Turn]]:
        """Tell the other processes that the block is still running; the last item of the list is the current turn."""
        held = [turn]

        ended = asyncio.Event()

        async def say() -> None:
            while not await _within(ended.wait(), self._life_s):
                try:
                    renewed = await run_in_threadpool(self._keyed.stay, held[-1])
                except RegistryError as error:
                    _log.warning("a request with an idempotency key could not be reserved: %s", error.message)
                    continue
                if renewed is None:
                    return
                held.append(renewed)

        saying = asyncio.create_task(say())
        try:
            yield held
        finally:
            # Not cancelled, because what it last told the database must be known here.
            ended.set()
            await saying


def _in_progress() -> Conflict:
    return Conflict(
        "the first request with this idempotency key is still in progress; send it again later for its answer",
        param="idempotency_key",
    )


class _Recorder:
    """Holds an answer back until it is kept, unless it grows too long."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._messages: list[Message] = []
        self._size_bytes = 0

    async def send(self, message: Message) -> None:
        self._messages.append(message)
        self._size_bytes += len(message.get("body", b""))
        if self._size_bytes > MAX_ANSWER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        for message in self._messages:
            await self._send(message)
        self._messages.clear()

    def answer(self) -> Answer | None:
        """Return what to keep, or None for an answer that must not be repeated, or is too long."""
        if self._size_bytes > MAX_ANSWER_BYTES or not self._messages:
            return None
        start, *parts = self._messages
        status: int = start["status"]
        # A redirection depends on its header, and a server's error may be gone the next time.
        if not (200 <= status < 300 or 400 <= status < 500) or status in _PASSING:
            return None
        body = b"".join(part.get("body", b"") for part in parts)
        if body and (b"content-type", b"application/json") not in start["headers"]:
            return None
        return Answer(status, body.decode())


async def _within(awaited: Awaitable[object], seconds: float) -> bool:
    """Wait for something for this long; say whether it came."""
    try:
        await asyncio.wait_for(awaited, seconds)
    except TimeoutError:
        return False
    return True


def _key(scope: Scope) -> str:
    keys: list[str] = [value.decode("latin-1") for name, value in scope["headers"] if name == b"idempotency-key"]
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise Invalid(
            f"an {HEADER} is 1 to 200 printable ASCII characters, once; make one with: uuidgen", param="idempotency_key"
        )
    if scope["path"] == _TOKENS:
        raise Invalid(
            f"a token's secret is not stored, so it can't be returned twice; create the token without an {HEADER}",
            param="idempotency_key",
        )
    return keys[0]


def _request(scope: Scope, key: str, body: bytes) -> Keyed:
    whole = hashlib.sha256()
    for part in (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body):
        whole.update(len(part).to_bytes(8, "big") + part)
    return Keyed(owner_of(scope["principal"]), key, whole.hexdigest())


async def _body(receive: Receive) -> bytes:
    """Return the body, whose length an outer middleware has checked."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _given(body: bytes, receive: Receive) -> Receive:
    """Give the body again, then anything that comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return waiting.pop() if waiting else await receive()

    return give


def _replay(answer: Answer) -> Response:
    kind = "application/json" if answer.body else None
    return Response(answer.body, answer.status, headers={REPLAYED: "true"}, media_type=kind)
