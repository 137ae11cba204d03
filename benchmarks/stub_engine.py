"""An engine that computes nothing: real HTTP, and answers at once. What is measured in front of it is the gateway alone.

Its answers consist of the model's name, so that a mixed one is seen: `python -m stub_engine PORT [PIECES] [SECONDS BETWEEN THEM]`.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sdk.gateway.engines.engine import EngineFacts, EngineRefused, Upstream

#: The name that its base has there.
BASE = "stub-base"
#: The most bodies that it remembers.
_REMEMBERED = 1000


class StubServer:
    """The application. `GET /seen` has the bodies that came, and which requests ended early."""

    def __init__(self, pieces: int = 3, every_s: float = 0.0) -> None:
        self._pieces, self._every_s = pieces, every_s
        self._loaded: dict[str, str] = {}
        self._bodies: list[dict[str, Any]] = []
        self._cancelled = 0
        self._refuses: int | None = None
        #: Whether it doesn't say what it has any more.
        self.is_away = False
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/load", self.load, methods=["POST"]),
                Route("/release", self.release, methods=["POST"]),
                Route("/loaded", self.loaded),
                Route("/seen", self.seen),
                Route("/status", self.status, methods=["POST"]),
            ]
        )

    async def complete(self, request: Request) -> Response:
        """Answer with the model's name, again and again."""
        body = await request.json()
        self._bodies = [*self._bodies[-_REMEMBERED:], {"path": request.url.path, **body}]
        if self._refuses is not None:
            return JSONResponse({"error": {"message": "the stub refuses"}}, status_code=self._refuses)
        model = body["model"]
        if model != BASE and model not in self._loaded:
            return JSONResponse({"error": {"message": f"there is no {model}"}}, status_code=404)
        chat = request.url.path == "/v1/chat/completions"
        if not body.get("stream"):
            text = " ".join([model] * self._pieces)
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return JSONResponse(
                {
                    "id": "stub",
                    "object": "chat.completion" if chat else "text_completion",
                    "created": 0,
                    "model": model,
                    "choices": [{"index": 0, "finish_reason": "stop", **choice}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": self._pieces, "total_tokens": self._pieces + 1},
                }
            )
        return StreamingResponse(self._stream(model, chat=chat), media_type="text/event-stream")

    async def _stream(self, model: str, *, chat: bool) -> Any:
        kind = "chat.completion.chunk" if chat else "text_completion"
        try:
            for number in range(self._pieces):
                text = f"{model} "
                last = number == self._pieces - 1
                choice = {"index": 0, "finish_reason": "stop" if last else None}
                choice |= {"delta": {"content": text}} if chat else {"text": text}
                document = {"id": "stub", "object": kind, "created": 0, "model": model, "choices": [choice]}
                yield f"data: {json.dumps(document)}\n\n".encode()
                if self._every_s:
                    await asyncio.sleep(self._every_s)
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self._cancelled += 1
            raise

    async def load(self, request: Request) -> Response:
        """Take a version."""
        body = await request.json()
        self._loaded[body["name"]] = body["folder"]
        return JSONResponse({})

    async def release(self, request: Request) -> Response:
        """Forget a version."""
        self._loaded.pop((await request.json())["name"], None)
        return JSONResponse({})

    async def loaded(self, _request: Request) -> Response:
        """Say which versions there are."""
        if self.is_away:
            return JSONResponse({}, status_code=503)
        return JSONResponse(sorted(self._loaded))

    async def seen(self, _request: Request) -> Response:
        """Say what came."""
        return JSONResponse({"bodies": self._bodies, "cancelled": self._cancelled})

    async def status(self, request: Request) -> Response:
        """Refuse all requests from now on with a status; None: none."""
        self._refuses = (await request.json())["status"]
        return JSONResponse({})


class StubEngine:
    """Such a server as the gateway's engine. What it loads is an adapter if its folder is there."""

    def __init__(self, url: str, *, takes: frozenset[str] = frozenset({"tools"}), template: str | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )
        self._takes, self._template = takes, template
        self._loaded: set[str] = set()

    async def facts(self) -> EngineFacts:
        """As of every engine."""
        await self.loaded()
        return EngineFacts("stub", None, BASE, 4096, self._template, self._takes)

    async def load(self, name: str, folder: Path) -> None:
        """As of every engine."""
        if not folder.is_dir():
            raise EngineRefused(f"{folder} is no folder; give one that is there")
        (await self._client.post("/load", json={"name": name, "folder": str(folder)})).raise_for_status()
        self._loaded.add(name)

    def route(self, name: str | None) -> Upstream:
        """As of every engine."""
        if name is not None and name not in self._loaded:
            raise KeyError(name)
        return Upstream(self._client, {"model": name or BASE})

    async def release(self, name: str) -> None:
        """As of every engine."""
        self._loaded.discard(name)
        (await self._client.post("/release", json={"name": name})).raise_for_status()

    async def loaded(self) -> frozenset[str]:
        """As of every engine."""
        response = await self._client.get("/loaded")
        response.raise_for_status()
        return frozenset(response.json())

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """It writes every token with the same chance."""
        return [math.log(0.5)] * len(continuation)

    async def close(self) -> None:
        """As of every engine."""
        await self._client.aclose()


@contextmanager
def running_stub(
    port: int, pieces: int = 3, every_s: float = 0.0, *, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run such a server during the block; yield its URL."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, __file__, str(port), str(pieces), str(every_s)], env=environment and dict(environment)
    )
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/loaded", timeout=5)
                break
            except httpx.HTTPError:
                if process.poll() is not None:
                    raise RuntimeError("the stub has ended") from None
                time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


if __name__ == "__main__":
    port, *rest = sys.argv[1:]
    server = StubServer(*(kind(text) for kind, text in zip((int, float), rest, strict=False)))
    uvicorn.run(server.app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
