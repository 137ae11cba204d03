"""How long requests take, by route."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.http.paths import area_of
from registry.observed import OBSERVED

#: A caller may send any word as the method.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: The status that is noted for a request whose client left before it was answered.
_LEFT = 499


class TimeRequests:
    """ASGI middleware, the outermost: notes of each request when its answer is whole. A stream of events counts until it begins:
    how long somebody reads it says nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and note how long that took."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, ended_s, status = time.monotonic(), None, _LEFT

        async def note(message: Message) -> None:
            nonlocal ended_s, status
            if message["type"] == "http.response.start":
                status = message["status"]
                if any(
                    name == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message["headers"]
                ):
                    ended_s = time.monotonic()
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            seconds = (time.monotonic() if ended_s is None else ended_s) - began
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # Of what matched no route, only the area: its path may be anything.
            route = getattr(scope.get("route"), "path", None) or area_of(scope["path"]).path
            OBSERVED.count("http_requests", method=method, route=route, status=str(status))
            OBSERVED.time("http_request_duration_seconds", seconds, method=method, route=route)
