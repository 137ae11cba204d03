"""What comes in, before any route sees it: JSON that means one thing, and that both databases can keep.

>>> parse_strictly(b'{"rank": 8}')
{'rank': 8}
>>> parse_strictly(b'{"rank": NaN}')
Traceback (most recent call last):
registry.errors.Invalid: the body holds NaN or an infinity, which JSON has no word for; leave the value out
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import Invalid, TooLarge

#: The longest body in bytes; a base with a hundred thousand tensors stays below it.
MAX_BODY_BYTES = 32 * 1024 * 1024
#: Lists and objects inside one another.
MAX_DEPTH = 64
#: What a 64-bit column holds.
_MAX_INTEGER = 2**63 - 1

_PREFIX = "/api/v1/"
_SURROGATE = re.compile("[\ud800-\udfff]")


class StrictBodies:
    """ASGI middleware: refuses requests to the API whose text no rule could accept, with the code `invalid`.

    Paths below `besides` are let through unread: bytes stream there.
    """

    def __init__(self, app: ASGIApp, *, besides: str) -> None:
        self._app = app
        self._besides = f"{besides}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a body whole, check it, and hand it on."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(_PREFIX) or path.startswith(self._besides):
            await self._app(scope, receive, send)
            return
        try:
            _check_target(scope)
            body = await _read(scope, receive)
            if body and _is_json(_header(scope, b"content-type")):
                parse_strictly(body)
        except Invalid as error:
            await JSONResponse(error.reply().model_dump(), status_code=error.status)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


def parse_strictly(body: bytes) -> Any:
    """Return the value of a JSON document.

    Raises Invalid for other encodings than UTF-8, NaN and infinities, numbers out of range, a key that stands twice,
    NUL and halves of surrogate pairs in texts, and nesting below `MAX_DEPTH`.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise Invalid("the body is not UTF-8; send JSON in UTF-8") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise Invalid(f"the body is no JSON ({error}); send one JSON document") from error
    # Only what is escaped can be NUL or half a surrogate pair, and what is nested has as many brackets as levels.
    if b"\\u" in body or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Invalid(f"the body has the key {twice[:80]!a} twice in one object; send it once")
    return found


def _refuse_constant(_word: str) -> Any:
    raise Invalid("the body holds NaN or an infinity, which JSON has no word for; leave the value out")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Invalid(f"the body holds the number {text[:40]}, which is out of range; send a smaller one")
    return number


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _MAX_INTEGER:
        raise Invalid(f"the body holds the number {text[:40]}, which is out of range; send a smaller one")
    return int(text)


def _check(value: Any) -> None:
    """Look at every text and the depth, without recursion."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            check_text(item)
        elif isinstance(item, (dict, list)):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            if isinstance(item, dict):
                waiting.extend((key, depth) for key in item)
            waiting.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))


def check_text(text: str) -> None:
    """Raise Invalid for a text that a database can't keep or UTF-8 can't write."""
    if "\0" in text or _SURROGATE.search(text):
        raise Invalid(f"the text {text[:40]!a} has NUL or half a surrogate pair in it; send plain Unicode text")


def _too_deep() -> Invalid:
    return Invalid(f"the body is nested more than {MAX_DEPTH} deep; send a flatter one")


def _check_target(scope: Scope) -> None:
    """Raise Invalid for NUL or broken UTF-8 in path or query."""
    check_text(scope["path"])
    if re.search(rb"%00", scope["query_string"]):
        raise Invalid("the query has a NUL in it; send plain text")


async def _read(scope: Scope, receive: Receive) -> bytes:
    declared = _header(scope, b"content-length")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes; files go to storage by an upload session")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body once more, then whatever comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _is_json(content_type: bytes) -> bool:
    kind = content_type.split(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")
