"""The engine program's routes over a real Unix socket, in this process: over the real decode loop, or one that plays tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from support.waiting import wait_until
from workers.serving.decoding.requests import DecodeQuestion, Ended, EndReason, OnPiece, ServedPlacement, Token
from workers.serving.door.activity import Activity
from workers.serving.door.engine import ServedEngine
from workers.serving.door.replies import ReplyLimits
from workers.serving.door.routes import EngineRoutes
from workers.serving.texts.prompts import PromptRenderers
from workers.serving.texts.versions import TextsOfBase


@dataclass
class PlayedQuestion:
    """A question whose tokens are given."""

    question: DecodeQuestion
    on_piece: OnPiece
    cancelled: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    def cancel(self) -> None:
        """Nothing more is sent."""
        self.cancelled.set()


class PlayedLoop:
    """Sends the tokens that a test gives, one after the other, in a thread of its own for each question."""

    def __init__(self, tokens: Callable[[], Iterator[Token | Ended]]) -> None:
        """`tokens` is called for each question; what it yields comes until the question is cancelled."""
        self._tokens = tokens
        self.questions: list[PlayedQuestion] = []
        self.running = self.queued = 0

    def load(self, name: str, folder: Path) -> ServedPlacement:
        """Any version is fine."""
        return ServedPlacement.SHARES_A_BATCH

    def release(self, name: str) -> None:
        """Nothing is held."""

    def submit(self, question: DecodeQuestion, on_piece: OnPiece) -> PlayedQuestion:
        """Begin to play."""
        played = PlayedQuestion(question, on_piece)
        self.questions.append(played)
        self.running += 1
        threading.Thread(target=self._play, args=(played,), daemon=True).start()
        return played

    def _play(self, played: PlayedQuestion) -> None:
        ended: Ended | None = None
        for piece in self._tokens():
            if played.cancelled.is_set():
                ended = Ended(EndReason.CANCELLED)
            elif isinstance(piece, Ended):
                ended = piece
            if ended is not None:
                break
            played.on_piece(piece)
            played.sent += 1
        self.running -= 1
        played.on_piece(ended or Ended(EndReason.LENGTH))

    def close(self) -> None:
        """End all."""
        for played in self.questions:
            played.cancel()


def plays(ids: Sequence[int], end: Ended | None = None) -> Callable[[], Iterator[Token | Ended]]:
    """Return what yields these tokens, and then an end."""

    def tokens() -> Iterator[Token | Ended]:
        yield from (Token(token, -0.5, ((token, -0.5),)) for token in ids)
        yield end or Ended(EndReason.STOP)

    return tokens


@dataclass
class RunningEngine:
    """An engine that answers over a socket."""

    engine: ServedEngine
    activity: Activity
    socket: Path
    client: httpx.Client

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Ask it something."""
        return self.client.post(path, json=body)

    def openai(self) -> Any:
        """Return OpenAI's own client for it."""
        import openai

        return openai.OpenAI(base_url="http://engine/v1", api_key="none", http_client=self._new_client(), max_retries=0)

    def _new_client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://engine", timeout=60)


@contextmanager
def answering(
    base: Path, loop: Any, folder: Path, *, limits: ReplyLimits | None = None, context_tokens: int = 256
) -> Iterator[RunningEngine]:
    """Answer over a decode loop during the block; its socket is in `folder`."""
    renderer = PromptRenderers()
    engine = ServedEngine(base, loop, TextsOfBase(base, renderer), renderer, context_tokens)
    activity, socket = Activity(), folder / "engine"
    routes = EngineRoutes(engine, activity, facts={"base": str(base)}, limits=limits or ReplyLimits())
    config = uvicorn.Config(
        routes.app,
        uds=str(socket),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        running = RunningEngine(engine, activity, socket, httpx.Client())
        with running._new_client() as running.client:
            yield running
    finally:
        server.should_exit = True
        thread.join()
        engine.close()
