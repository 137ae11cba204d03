"""How an answer is sent: whole, or piece by piece; and how it ends when its client is gone, or reads too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from workers.serving.decoding.requests import Ended, EndReason, Token
from workers.serving.door.activity import Activity
from workers.serving.door.engine import PreparedRequest, RunningQuestion, ServedEngine
from workers.serving.door.mailbox import MOST_WAITING, Mailbox
from workers.serving.door.openai_shapes import DONE, ChatShape, CompletionShape, Finish, TokenUsage, as_json, event
from workers.serving.door.refusals import RequestRefused, broken, error_object, note_error
from workers.serving.texts.answers import AnswerStream, Delta

_SERVER_SENT_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
]


@dataclass(frozen=True)
class ReplyLimits:
    """What a client that reads slowly is granted."""

    #: The most tokens that wait for it.
    most_waiting: int = MOST_WAITING
    #: For how long it may take nothing of what is sent.
    stalled_s: float = 60.0


class AnswerFailed(Exception):  # noqa: N818 - it reads as what happened
    """An answer can't be completed; the message is one sentence."""


class Reply(Response):
    """The answer to one request."""

    def __init__(
        self,
        engine: ServedEngine,
        activity: Activity,
        prepared: PreparedRequest,
        shape: ChatShape | CompletionShape,
        *,
        streams: bool,
        limits: ReplyLimits,
    ) -> None:
        self._engine, self._activity, self._prepared, self._shape = engine, activity, prepared, shape
        self._streams, self._limits = streams, limits
        self.background = None
        self._finish: Finish = "length"
        self._stopped_by_token = False
        #: Whether a part of the answer was sent.
        self._begun = False
        self._answer: AnswerStream = prepared.answer()
        self._running: RunningQuestion | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; whatever ends this ends the question within a step."""
        with self._activity.one():
            sending = asyncio.create_task(self._send(send))
            watching = asyncio.create_task(_gone(receive))
            self._mailbox = Mailbox(most=self._limits.most_waiting, on_full=sending.cancel)
            try:
                await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if self._running is not None:
                    self._running.cancel()
                for task in (sending, watching):
                    task.cancel()
                    # Without the last chunk of a body that is sent in chunks, its client knows that it isn't whole.
                    with suppress(asyncio.CancelledError, OSError, TimeoutError):
                        await task

    async def _send(self, send: Send) -> None:
        try:
            self._running = self._engine.submit(self._prepared, self._mailbox.put)
            async with aclosing(self._deltas()) as deltas:
                if self._streams:
                    await self._send_stream(send, deltas)
                else:
                    await self._send_answer(send, deltas)
        except RequestRefused as refusal:
            await self._send_whole(send, refusal.status, as_json(refusal.body()))
        except (OSError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote an answer, so it is told to nobody
            note_error(error)
            if not self._begun:
                await self._send_whole(send, 500, as_json(broken().body()))

    async def _send_answer(self, send: Send, deltas: AsyncIterator[Delta]) -> None:
        contents, reasonings, tokens = list[str](), list[str](), list[Token]()
        try:
            async for delta in deltas:
                contents.append(delta.content)
                reasonings.append(delta.reasoning)
                tokens += delta.tokens
        except AnswerFailed as error:
            await self._send_whole(send, 500, as_json({"error": error_object(500, "failed", str(error))}))
            return
        whole = Delta("".join(contents), "".join(reasonings), tuple(tokens))
        body = self._shape.whole(whole.content, whole.reasoning, whole.tokens, self._finish, self._usage())
        await self._send_whole(send, 200, as_json(body))

    async def _send_stream(self, send: Send, deltas: AsyncIterator[Delta]) -> None:
        try:
            async for delta in deltas:
                events = b"" if self._begun else self._first()
                if not self._begun:
                    await self._put(
                        send, {"type": "http.response.start", "status": 200, "headers": _SERVER_SENT_EVENTS}
                    )
                if delta:
                    events += event(self._shape.chunk(delta.content, delta.reasoning, delta.tokens))
                if events:
                    await self._put(send, {"type": "http.response.body", "body": events, "more_body": True})
            rest = event(self._shape.last(self._finish))
            if self._shape.include_usage:
                rest += event(self._shape.usage(self._usage()))
            rest += DONE
        except AnswerFailed as error:
            failure = {"error": error_object(500, "failed", str(error))}
            if not self._begun:
                await self._send_whole(send, 500, as_json(failure))
                return
            rest = event(failure)
        await self._put(send, {"type": "http.response.body", "body": rest})

    def _first(self) -> bytes:
        first = self._shape.first()
        return b"" if first is None else event(first)

    async def _deltas(self) -> AsyncGenerator[Delta, None]:
        """Yield what is new of the answer, at least one, until it ends. Raises AnswerFailed."""
        prepared, answer = self._prepared, self._answer
        prompt_tokens = len(prepared.question.prompt) if prepared.question.scores_prompt else 0
        delta, scored = Delta(content=prepared.echo or ""), list[Token]()
        while True:
            for piece in await self._mailbox.take():
                if isinstance(piece, Ended):
                    _require_whole(piece)
                    delta += answer.end()
                    self._stopped_by_token = piece.reason is EndReason.STOP and not answer.stopped
                    self._finish = "stop" if answer.stopped or self._stopped_by_token else "length"
                    yield delta
                    return
                if len(scored) < prompt_tokens:
                    scored.append(piece)
                    delta += Delta(tokens=(piece,))
                    continue
                delta += answer.add(piece)
                if answer.stopped:
                    # The loop may be a token ahead, which nobody sees.
                    assert self._running is not None
                    self._running.cancel()
                    self._finish = "stop"
                    yield delta
                    return
            yield delta
            delta = Delta()

    def _usage(self) -> TokenUsage:
        # The token at which it stopped was generated too, as engines count.
        return TokenUsage(len(self._prepared.question.prompt), self._answer.tokens + self._stopped_by_token)

    async def _send_whole(self, send: Send, status: int, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._put(send, {"type": "http.response.start", "status": status, "headers": headers})
        await self._put(send, {"type": "http.response.body", "body": body})

    async def _put(self, send: Send, message: Message) -> None:
        """Send a part; it waits while the client has not taken the ones before. Raises TimeoutError if that takes too long."""
        self._begun = True
        async with asyncio.timeout(self._limits.stalled_s):
            await send(message)


async def _gone(receive: Receive) -> None:
    """Return once the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _require_whole(ended: Ended) -> None:
    """Raise AnswerFailed if an answer ended before it was whole."""
    if ended.reason is EndReason.FAILED:
        raise AnswerFailed(ended.error or "the engine program failed at this answer; ask again")
    if ended.reason is EndReason.CANCELLED:
        raise AnswerFailed("the answer was cancelled, since its version was released or the program ends; ask again")
