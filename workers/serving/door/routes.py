"""The engine program's routes: those of OpenAI, and load, release and health."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psutil
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workers.serving.door.activity import Activity
from workers.serving.door.bodies import (
    MOST_BODY_BYTES,
    EngineChat,
    EngineCompletion,
    LoadBody,
    ReleaseBody,
    parse_body,
)
from workers.serving.door.engine import BASE_NAME, PreparedRequest, ServedEngine
from workers.serving.door.openai_shapes import ChatShape, CompletionShape
from workers.serving.door.refusals import RequestRefused, broken, note_error
from workers.serving.door.replies import Reply, ReplyLimits
from workers.serving.texts.versions import digest_of_template

#: The most requests at once, with those that are prepared: each may have a whole body in memory.
MOST_REQUESTS = 256

Endpoint = Callable[[Request], Awaitable[Response]]


class EngineRoutes:
    """The application over one engine."""

    def __init__(
        self,
        engine: ServedEngine,
        activity: Activity,
        *,
        facts: dict[str, Any],
        limits: ReplyLimits = ReplyLimits(),  # noqa: B008 - it never changes
    ) -> None:
        """`facts`: what `/health` says that never changes: base, fingerprint, dtype, device."""
        self._engine, self._activity, self._facts = engine, activity, facts
        self._limits = limits
        self._started = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/load", self._asked(self._load), methods=["POST"]),
                Route("/release", self._asked(self._release), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._asked(self._chat), methods=["POST"]),
                Route("/v1/completions", self._asked(self._completion), methods=["POST"]),
            ]
        )

    def _asked(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that counts as something to do, and whose errors are told to its client alone."""

        async def counted(request: Request) -> Response:
            try:
                if self._activity.ending:
                    raise RequestRefused(503, "ending", "this program is about to end; start another one")
                if self._activity.running >= MOST_REQUESTS:
                    raise RequestRefused(429, "too_many", f"{MOST_REQUESTS} requests are running; try again later")
                with self._activity.one():
                    return await endpoint(request)
            except RequestRefused as refusal:
                return JSONResponse(refusal.body(), refusal.status)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - an error's text may quote a prompt, so it is told to nobody
                note_error(error)
                return JSONResponse(broken().body(), 500)

        return counted

    async def _health(self, request: Request) -> Response:
        engine = self._engine
        template = engine.texts.bare.template
        return JSONResponse(
            {
                **self._facts,
                "context_tokens": engine.context_tokens,
                "template": None if template is None else digest_of_template(template.text),
                "adapters": [
                    {"name": each.name, "folder": str(each.folder), "placement": each.placement.value}
                    for each in sorted(engine.versions.values(), key=lambda version: version.name)
                ],
                "running": engine.loop.running,
                "queued": engine.loop.queued,
                "memory_bytes": psutil.Process().memory_info().rss,
            }
        )

    async def _models(self, request: Request) -> Response:
        names = [BASE_NAME, *sorted(self._engine.versions)]
        models = [{"id": name, "object": "model", "created": self._started, "owned_by": "adapterctl"} for name in names]
        return JSONResponse({"object": "list", "data": models})

    async def _load(self, request: Request) -> Response:
        body = parse_body(LoadBody, await _body(request))
        return JSONResponse({"placement": (await self._engine.load(body)).value})

    async def _release(self, request: Request) -> Response:
        await self._engine.release(parse_body(ReleaseBody, await _body(request)).name)
        return JSONResponse({})

    async def _chat(self, request: Request) -> Response:
        body = parse_body(EngineChat, await _body(request))
        prepared = await self._engine.chat(body)
        shape = ChatShape(body.model, prepared.texts.vocabulary, prepared.logprobs, _includes_usage(body))
        return self._reply(prepared, shape, body)

    async def _completion(self, request: Request) -> Response:
        body = parse_body(EngineCompletion, await _body(request))
        prepared = await self._engine.completion(body)
        shape = CompletionShape(body.model, prepared.texts.vocabulary, prepared.logprobs, _includes_usage(body))
        return self._reply(prepared, shape, body)

    def _reply(
        self, prepared: PreparedRequest, shape: ChatShape | CompletionShape, body: EngineChat | EngineCompletion
    ) -> Response:
        return Reply(self._engine, self._activity, prepared, shape, streams=bool(body.stream), limits=self._limits)


def _includes_usage(body: EngineChat | EngineCompletion) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


async def _body(request: Request) -> bytes:
    """Return a request's body. Raises RequestRefused for one that is too long, as soon as that is known."""
    parts, size = [], 0
    chunks: AsyncIterator[bytes] = request.stream()
    async for chunk in chunks:
        size += len(chunk)
        if size > MOST_BODY_BYTES:
            raise RequestRefused(
                413, "too_long", f"the body has more than {MOST_BODY_BYTES // 2**20} MiB; shorten the prompt"
            )
        parts.append(chunk)
    return b"".join(parts)
