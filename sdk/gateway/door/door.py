"""The gateway's routes: who asks is checked, then the host, the body is written anew, and the engine's answer passed on.

A request gets the version that its name means when it comes, and keeps it until it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from sdk.gateway.door.completions import CHAT, COMPLETIONS, AskedCompletion, Completions
from sdk.gateway.door.entrance import ALIVE, READY
from sdk.gateway.door.hosts import OwnHosts
from sdk.gateway.door.keys import CallerRights, Keys
from sdk.gateway.door.places import SharedPlaces
from sdk.gateway.door.refusals import Declined, unknown_model
from sdk.gateway.door.requests import MAX_BODY_BYTES, ChatBody, CompletionBody, parse, require_taken, written
from sdk.gateway.door.standing import GatewayStanding
from sdk.gateway.door.streams import Requester, event
from sdk.gateway.door.templates import Templates
from sdk.gateway.engines.engine import EngineFacts
from sdk.gateway.moves.moves import Moves
from sdk.schemas.completions import CompletionRequest

MODELS = "/v1/models"
#: With this, `transformers chat` waits until a model is loaded, without a key: it is told that any is, which says nothing.
LOAD_MODEL, LOADED = "/load_model", {"status": "ready", "cached": True}
#: What a name of a base begins with; no adapter's name has a colon.
BASE = "base:"
#: The most requests at once, of which one caller gets half, and how long a body may take to come, in seconds.
MOST_RUNNING, BODY_S = 256, 30.0
#: How long the rest of a body is read whose request is refused, in seconds.
REST_S = 2.0


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
        self._standing, self._keys, self._hosts, self._facts = standing, keys, hosts, facts
        self._base = BASE + base
        self._completions = Completions(versions=versions, templates=templates, facts=facts, base=self._base)
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
            # It came in pieces, and is refused below with one that says beforehand how long it is.
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
        await self._completions.answer(AskedCompletion(path, request, document, name), caller)

    def _named(self, model: str, rights: CallerRights) -> str | None:
        """Return the name of an adapter's version, None for the base. Raises Declined, in one sentence whatever the reason is."""
        if model == self._base:
            if not rights.may_use_base:
                raise unknown_model(model)
            return None
        if not rights.may_use(model.partition("@")[0]):
            raise unknown_model(model)
        return model

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
