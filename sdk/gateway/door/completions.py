"""A completion, or a chat's, from the engine to its caller: by the version that its model's name means when it comes, until it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from dataclasses import dataclass
from typing import Any

import httpx

from sdk.gateway.door.chat_answers import ChatLines, chat_answer
from sdk.gateway.door.refusals import Declined, unknown_model
from sdk.gateway.door.requests import ChatBody, as_completion
from sdk.gateway.door.streams import BrokenAnswerError, RenamedLines, Requester, event, renamed, when_set, whole
from sdk.gateway.door.templates import Templates
from sdk.gateway.engines.engine import EngineFacts
from sdk.gateway.moves.moves import HeldRequest, Moves, NotServed, UnknownModel
from sdk.schemas.completions import CompletionRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
#: How long an engine may take to be reached, and between two pieces of its answer, in seconds: a long prompt comes before the first.
_ENGINE = httpx.Timeout(600.0, connect=5.0, pool=30.0)
_JSON = (b"content-type", b"application/json")

#: What llama.cpp says of a prompt that is too long; its caller can't make the context longer.
_TOO_LONG = re.compile(r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\).*")
_TOO_LONG_HERE = (
    r"the prompt has \1 tokens, which leaves no room for an answer in the context of \2; shorten the prompt"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedCompletion:
    """What a caller asks for, read and written anew."""

    path: str
    request: ChatBody | CompletionRequest
    #: The body that an engine gets, before a version's own fields are added.
    document: dict[str, Any]
    #: The name of an adapter's version; None: the base.
    name: str | None


@dataclass(frozen=True)
class _Route:
    """What is sent where."""

    path: str
    body: dict[str, Any]
    #: Whether the engine's completion is answered as a chat.
    is_chat: bool = False


class Completions:
    """Those of one engine."""

    def __init__(self, *, versions: Moves, templates: Templates, facts: EngineFacts, base: str) -> None:
        """`base` is what requests call the base."""
        self._versions, self._templates, self._facts, self._base = versions, templates, facts, base

    async def answer(self, asked: AskedCompletion, caller: Requester) -> None:
        """Send the answer, for as long as the caller stays. Raises Declined before anything of it is sent."""
        task = asyncio.current_task()
        assert task is not None
        gone = caller.when_gone(task.cancel)
        try:
            async with self._versions.hold(asked.name) as held:
                await self._answered(asked, held, caller)
        except UnknownModel:
            raise unknown_model(asked.request.model) from None
        except NotServed as error:
            wait = {"Retry-After": str(math.ceil(error.retry_after_s))}
            raise Declined(503, "unavailable", str(error), param="model", headers=wait) from error
        except asyncio.CancelledError:
            # The caller has hung up, unless somebody else cancels this.
            if not gone.done() or task.uncancel() > 0:
                raise
        finally:
            gone.cancel()

    async def _answered(self, asked: AskedCompletion, held: HeldRequest, caller: Requester) -> None:
        """Answer by a version, until it is withdrawn."""
        task = asyncio.current_task()
        assert task is not None
        withdrawn = when_set(held.withdrawn, task.cancel)
        try:
            route = await self._route(asked, held)
            await self._pass_on(route, asked.request.model, held, caller)
        except asyncio.CancelledError:
            if not withdrawn.done() or task.uncancel() > 0:
                raise
            refused = unknown_model(asked.request.model)
            if not caller.has_begun:
                raise refused from None
            await caller.send({"type": "http.response.body", "body": event(refused.document())})
        finally:
            withdrawn.cancel()

    async def _route(self, asked: AskedCompletion, held: HeldRequest) -> _Route:
        """Return what is sent where. Raises Declined."""
        if not isinstance(asked.request, ChatBody):
            fields = await self._templates.continued(held.version, held.folder, asked.request)
            return _Route(asked.path, asked.document | dict(fields))
        prompted = await self._templates.prompted(held.version, held.folder, asked.request)
        document = asked.document | dict(prompted.fields)
        if prompted.tokens is None:
            return _Route(asked.path, document)
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
    """Return what an engine says to a caller.

    >>> _sentence(b'{"error": {"message": "request (9 tokens) exceeds the available context size (8 tokens), try increasing it"}}')
    'the prompt has 9 tokens, which leaves no room for an answer in the context of 8; shorten the prompt'
    """
    try:
        error = json.loads(answer)
        error = error.get("error", error)
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, AttributeError, RecursionError):
        message = None
    if not isinstance(message, str) or not message.strip():
        return "the engine refused this request; correct it"
    line = message.partition("\n")[0][:500]
    return _TOO_LONG.sub(_TOO_LONG_HERE, line)
