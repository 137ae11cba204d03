"""The gateway's routes: who asks is checked, then the host, the body is written anew, and the engine's answer passed on.

A request gets the version that its name means when it comes, and keeps it until it ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from sdk.gateway.chat_answers import ChatLines, chat_answer
from sdk.gateway.engines.engine import EngineFacts
from sdk.gateway.entrance import ALIVE, READY
from sdk.gateway.hosts import OwnHosts
from sdk.gateway.keys import CallerRights, Keys
from sdk.gateway.moves import HeldRequest, Moves, NotServed, UnknownModel
from sdk.gateway.places import SharedPlaces
from sdk.gateway.refusals import Declined, unknown_model
from sdk.gateway.requests import MAX_BODY_BYTES, ChatBody, CompletionBody, as_completion, parse, require_taken, written
from sdk.gateway.standing import GatewayStanding
from sdk.gateway.streams import BrokenAnswerError, RenamedLines, Requester, event, renamed, when_set, whole
from sdk.gateway.templates import Templates
from sdk.schemas.completions import CompletionRequest

CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
#: With this, `transformers chat` waits until a model is loaded, without a key: it is told that any is, which says nothing.
LOAD_MODEL, LOADED = "/load_model", {"status": "ready", "cached": True}
#: What a name of a base begins with; no adapter's name has a colon.
BASE = "base:"
#: The most requests at once, of which one caller gets half, and how long a body may take to come, in seconds.
MOST_RUNNING, BODY_S = 256, 30.0
#: How long the rest of a body is read whose request is refused, in seconds.
REST_S = 2.0
#: How long an engine may take to be reached, and between two pieces of its answer, in seconds: a long prompt comes before the first.
_ENGINE = httpx.Timeout(600.0, connect=5.0, pool=30.0)
_JSON = (b"content-type", b"application/json")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Route:
    """What is sent where."""

    path: str
    body: dict[str, Any]
    #: Whether the engine's completion is answered as a chat.
    is_chat: bool = False


class Door:
    """The ASGI application."""

    def __init__(
        self,
        *,
        versions: Moves,
        templates: Templates,
        standing: GatewayStanding,
        keys: Keys,
        hosts: OwnHosts,
        facts: EngineFacts,
        base: str,
        most_running: int = MOST_RUNNING,
    ) -> None:
        self._versions, self._templates, self._standing = versions, templates, standing
        self._keys, self._hosts, self._facts = keys, hosts, facts
        self._base = BASE + base
        self._places = SharedPlaces(most_running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application answers HTTP alone, and not {scope['type']}")
        away = self._standing.away_since
        extra = [] if away is None else [(b"x-adapterctl-registry-away-since", away.encode())]
        caller = Requester(receive, _with_headers(send, extra))
        try:
            await self._answer(scope, receive, caller)
        except Declined as refused:
            if scope["method"] not in ("GET", "HEAD") and not await caller.read_rest(MAX_BODY_BYTES, REST_S):
                refused.headers["Connection"] = "close"
            await refused.response()(scope, receive, caller.send)

    async def _answer(self, scope: Scope, receive: Receive, caller: Requester) -> None:
        path, method = scope["path"], scope["method"]
        if path in ALIVE:
            await JSONResponse({"status": "ok"})(scope, receive, caller.send)
            return
        self._hosts.require(scope["headers"], (scope.get("server") or (None,))[0])
        if path == READY:
            await self._ready(scope, receive, caller)
            return
        if path == LOAD_MODEL:
            _require_method(method, "POST")
            await caller.read_rest(MAX_BODY_BYTES, REST_S)
            await Response(event(LOADED), media_type="text/event-stream")(scope, receive, caller.send)
            return
        if path not in (CHAT, COMPLETIONS) and path != MODELS and not path.startswith(MODELS + "/"):
            raise Declined(404, "not_found", f"there is no route {path[:100]!a}; see docs/serving.md", param="path")
        who = await self._keys.caller(_single(scope, b"authorization"), (scope.get("client") or ("unknown",))[0])
        if path.startswith(MODELS):
            _require_method(method, "GET", "HEAD")
            await JSONResponse(self._models(who.rights, path))(scope, receive, caller.send)
            return
        _require_method(method, "POST")
        if (_single(scope, b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
            raise Declined(
                415, "unsupported_media_type", "a body is sent as Content-Type: application/json", param="Content-Type"
            )
        if not self._places.take(who.identity):
            raise Declined(
                429, "rate_limited", "too many requests are running; try again shortly", headers={"Retry-After": "1"}
            )
        try:
            await self._complete(path, who.rights, await self._body(scope, caller), caller)
        finally:
            self._places.give_back(who.identity)

    async def _body(self, scope: Scope, caller: Requester) -> bytes:
        """Return the body. Raises Declined for one that is too long or comes too slowly."""
        length = _single(scope, b"content-length")
        try:
            if length is None or int(length) <= MAX_BODY_BYTES:
                return await caller.body(MAX_BODY_BYTES, BODY_S)
        except OverflowError:
            pass
        except TimeoutError:
            raise Declined(408, "timeout", f"the body has not come within {BODY_S:g} s; send it faster") from None
        except ConnectionError:
            raise Declined(400, "invalid", "the body has not come whole; send it again") from None
        raise Declined(413, "too_large", f"the body is longer than {MAX_BODY_BYTES:,} bytes; send a shorter one")

    async def _complete(self, path: str, rights: CallerRights, body: bytes, caller: Requester) -> None:
        request: ChatBody | CompletionRequest
        request = parse(ChatBody, body) if path == CHAT else parse(CompletionBody, body)
        require_taken(request, self._facts.takes, self._facts.engine)
        document = written(request)
        name = self._named(request.model, rights)
        task = asyncio.current_task()
        assert task is not None
        gone = caller.when_gone(task.cancel)
        try:
            async with self._versions.hold(name) as held:
                await self._answered(path, request, document, held, caller)
        except UnknownModel:
            raise unknown_model(request.model) from None
        except NotServed as error:
            wait = {"Retry-After": str(math.ceil(error.retry_after_s))}
            raise Declined(503, "unavailable", str(error), param="model", headers=wait) from error
        except asyncio.CancelledError:
            # The caller has hung up, unless somebody else cancels this.
            if not gone.done() or task.uncancel() > 0:
                raise
        finally:
            gone.cancel()

    async def _answered(
        self,
        path: str,
        request: ChatBody | CompletionRequest,
        document: dict[str, Any],
        held: HeldRequest,
        caller: Requester,
    ) -> None:
        """Answer by a version, until it is withdrawn."""
        task = asyncio.current_task()
        assert task is not None
        withdrawn = when_set(held.withdrawn, task.cancel)
        try:
            route = await self._route(path, request, document, held)
            await self._pass_on(route, request.model, held, caller)
        except asyncio.CancelledError:
            if not withdrawn.done() or task.uncancel() > 0:
                raise
            refused = unknown_model(request.model)
            if not caller.has_begun:
                raise refused from None
            await caller.send({"type": "http.response.body", "body": event(refused.document())})
        finally:
            withdrawn.cancel()

    def _named(self, model: str, rights: CallerRights) -> str | None:
        """Return the name of an adapter's version, None for the base. Raises Declined, in one sentence whatever the reason is."""
        if model == self._base:
            if not rights.may_use_base:
                raise unknown_model(model)
            return None
        if not rights.may_use(model.partition("@")[0]):
            raise unknown_model(model)
        return model

    async def _route(
        self, path: str, request: ChatBody | CompletionRequest, document: dict[str, Any], held: HeldRequest
    ) -> _Route:
        """Return what is sent where. Raises Declined."""
        if not isinstance(request, ChatBody):
            return _Route(path, document)
        prompted = await self._templates.prompted(held.version, held.folder, request)
        document = document | dict(prompted.fields)
        if prompted.tokens is None:
            return _Route(path, document)
        return _Route(COMPLETIONS, as_completion(document, prompted.tokens, self._facts.context_tokens), is_chat=True)

    async def _pass_on(self, route: _Route, asked: str, held: HeldRequest, caller: Requester) -> None:
        headers = [_JSON, (b"x-adapterctl-version", (held.version or self._base).encode())]
        content = json.dumps(route.body | dict(held.upstream.fields), ensure_ascii=False).encode()
        response = await self._sent(held.upstream.client, route.path, content)
        try:
            if response.status_code == 404:
                self._versions.look()
            if response.status_code != 200:
                raise _refusal(response.status_code, await whole(response.aiter_bytes()), held.version)
            if not route.body["stream"]:
                answer = renamed(await whole(response.aiter_bytes()), asked)
                if route.is_chat:
                    answer = json.dumps(chat_answer(json.loads(answer)), ensure_ascii=False).encode()
                headers.append((b"content-length", str(len(answer)).encode()))
                await caller.send({"type": "http.response.start", "status": 200, "headers": headers})
                await caller.send({"type": "http.response.body", "body": answer})
                return
            headers[0] = (b"content-type", b"text/event-stream")
            headers.append((b"cache-control", b"no-store"))
            await caller.send({"type": "http.response.start", "status": 200, "headers": headers})
            lines = ChatLines(asked) if route.is_chat else RenamedLines(asked)
            async for piece in response.aiter_bytes():
                if out := lines.feed(piece):
                    await caller.send({"type": "http.response.body", "body": out, "more_body": True})
            await caller.send({"type": "http.response.body", "body": lines.rest()})
        except (httpx.HTTPError, BrokenAnswerError, ValueError) as error:
            _log.warning("the engine's answer for %s broke off (%s)", held.version or self._base, type(error).__name__)
            broken = Declined(502, "unavailable", "the engine's answer broke off; send the request again")
            if not caller.has_begun:
                raise broken from error
            await caller.send({"type": "http.response.body", "body": event(broken.document())})
        finally:
            await response.aclose()

    async def _sent(self, client: httpx.AsyncClient, path: str, content: bytes) -> httpx.Response:
        """Send a request to the engine, again if it can't have begun. Raises Declined."""
        for last in (False, True):
            request = client.build_request(
                "POST", path, content=content, headers={"Content-Type": "application/json"}, timeout=_ENGINE
            )
            try:
                return await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError) as error:
                # A connection that was kept may have been closed at the other end just now.
                if last:
                    self._versions.look()
                    raise _away() from error
            except httpx.HTTPError as error:
                self._versions.look()
                raise _away() from error
        raise AssertionError

    def _models(self, rights: CallerRights, path: str) -> dict[str, Any]:
        found = [_model(self._base, {"version": None})] if rights.may_use_base else []
        for name, details in self._standing.models():
            if rights.may_use(name.partition("@")[0]):
                found.append(_model(name, details))
        if path in (MODELS, MODELS + "/"):
            return {"object": "list", "data": found}
        wanted = path.removeprefix(MODELS + "/")
        for each in found:
            if each["id"] == wanted:
                return each
        raise unknown_model(wanted)

    async def _ready(self, scope: Scope, receive: Receive, caller: Requester) -> None:
        document = self._standing.document()
        await JSONResponse(document, status_code=200 if document["ready"] else 503)(scope, receive, caller.send)


def _model(model: str, details: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "adapterctl", "adapterctl": dict(details)}


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    if not headers:
        return send

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


def _single(scope: Scope, name: bytes) -> str | None:
    """Return a header that comes once. Raises Declined if it comes more often: who reads which of them is anybody's guess."""
    values = [value for header, value in scope["headers"] if header == name]
    if len(values) > 1:
        raise Declined(
            400, "invalid", f"the header {name.decode()} comes {len(values)} times; send it once", param=name.decode()
        )
    return values[0].decode("latin-1") if values else None


def _require_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Declined(
            405,
            "invalid",
            f"this route takes {allowed[0]} alone; use it",
            param="method",
            headers={"Allow": ", ".join(allowed)},
        )


def _away() -> Declined:
    return Declined(
        503, "unavailable", "the engine can't be reached; try again in some seconds", headers={"Retry-After": "2"}
    )


def _refusal(status: int, answer: bytes, name: str | None) -> Declined:
    """Return what a caller is told of an engine's refusal: its sentence if the request is the reason, and nothing of its insides
    otherwise.
    """
    if status in (400, 413, 422):
        return Declined(400, "invalid", _sentence(answer))
    if status == 429:
        return Declined(429, "rate_limited", "the engine is busy; try again shortly", headers={"Retry-After": "1"})
    _log.warning("the engine answered a request for %s with %s", name or "the base", status)
    if status == 404:
        return _away()
    return Declined(502, "unavailable", "the engine failed at this request; send it again")


def _sentence(answer: bytes) -> str:
    try:
        error = json.loads(answer)
        error = error.get("error", error)
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, AttributeError, RecursionError):
        message = None
    if not isinstance(message, str) or not message.strip():
        return "the engine refused this request; correct it"
    return message.partition("\n")[0][:500]
