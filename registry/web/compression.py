"""Pages are sent compressed, where nobody can learn from their size what is in them.

A page of another site can choose a part of what one of ours shows, by the query that it leads a browser here with, and
somebody on the way can see how long the compressed answer is. So an answer to such a request is sent as it is.
"""

from __future__ import annotations

import gzip
import re

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.http.paths import DOCS, PAGES, STATIC

#: What is shorter isn't worth it; what is longer is compressed in a thread. In bytes.
_LEAST_BYTES, _APART_BYTES = 1024, 64 * 1024
_LEVEL = 5
#: The API's document is 800 kB.
_PREFIXES = (PAGES, DOCS, "/openapi.json")
_TYPES = ("text/", "application/json", "image/svg+xml")
#: Unless its weight is 0.
_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)")
_FOREIGN = ("cross-site", "same-site")


class Compression:
    """ASGI middleware: compresses answers that are whole: pages, and the document of the API. Streams are left as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(_PREFIXES) or path.startswith(STATIC) or not _may(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def compress(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                begun, start = start, None
                if not message.get("more_body") and _is_worth_it(begun, message):
                    await _compress(begun, message)
                await send(begun)
            await send(message)

        await self._app(scope, receive, compress)


def _may(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return (
        _GZIP.search(headers.get("Accept-Encoding", "")) is not None and headers.get("Sec-Fetch-Site") not in _FOREIGN
    )


def _is_worth_it(start: Message, message: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return (
        len(message.get("body", b"")) >= _LEAST_BYTES
        and headers.get("Content-Type", "").startswith(_TYPES)
        and not headers.get("Content-Type", "").startswith("text/event-stream")
        and "Content-Encoding" not in headers
    )


async def _compress(start: Message, message: Message) -> None:
    body = message["body"]
    if len(body) < _APART_BYTES:
        message["body"] = gzip.compress(body, _LEVEL, mtime=0)
    else:
        message["body"] = await run_in_threadpool(gzip.compress, body, _LEVEL, mtime=0)
    # A copy: an answer may be sent again.
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(message["body"]))
    headers.add_vary_header("Accept-Encoding")
    start["headers"] = headers.raw
