"""Errors below `/ui/` that no page has answered: they become pages too, also those of other middleware and of faults."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.http.paths import PAGES, STATIC
from registry.web.pages import failure

_log = logging.getLogger(__name__)
#: What is kept of the answer that a page replaces.
_KEPT = (b"allow", b"retry-after")
_LEAST_ERROR = 400
#: What is said instead of what the router says to programs.
_OF_ROUTER = {
    404: "there is no page at this address; look for it from the list of all adapters",
    405: "this page takes no such request; open it by its address",
}


class ErrorPages:
    """ASGI middleware: replaces each error in JSON below `/ui/` by a page with its message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(PAGES) or path.startswith(STATIC):
            await self._app(scope, receive, send)
            return
        error: Message | None = None
        body = bytearray()
        has_begun = False

        async def replace(message: Message) -> None:
            nonlocal error, has_begun
            if message["type"] == "http.response.start" and _is_error(message):
                error = message
            elif error is None:
                has_begun = True
                await send(message)
            else:
                body.extend(message.get("body", b""))

        try:
            await self._app(scope, receive, replace)
        except Exception as fault:
            if has_begun:
                raise
            _log.error("unexpected error", exc_info=fault)
            page = failure(Request(scope), 500, "the registry failed unexpectedly; its log has the details", {})
            await page(scope, receive, send)
            return
        if error is not None:
            kept = {name.decode(): value.decode("latin-1") for name, value in error["headers"] if name in _KEPT}
            answer = failure(Request(scope), error["status"], _message(error["status"], bytes(body)), kept)
            await answer(scope, receive, send)


def _is_error(start: Message) -> bool:
    kind = next((value for name, value in start["headers"] if name == b"content-type"), b"")
    return start["status"] >= _LEAST_ERROR and kind.startswith(b"application/json")


def _message(status: int, body: bytes) -> str:
    reply: dict[str, Any] = json.loads(body)
    message = str(reply["error"]["message"])
    return _OF_ROUTER.get(status, message) if message.startswith(HTTPStatus(status).phrase) else message
