"""What comes in, before any route sees it: who may send what, how much of it, and what it says.

A body is parsed once, by `registry.strictjson`. The value that was checked is handed on in the scope and is what the
views get, so that no second parser with other rules ever reads it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.auth.principal import Principal
from registry.errors import Invalid, RegistryError, TooLarge, TooSlow, WrongMediaType
from registry.held import Held
from registry.strictjson import MAX_VALUES, check_text, most_values, parse_strictly

_MIB = 1024 * 1024
#: The longest body in bytes where no route needs more.
MAX_BODY_BYTES = _MIB


class Limit(NamedTuple):
    """How much one body may be."""

    size_bytes: int
    values: int


_USUAL = Limit(MAX_BODY_BYTES, MAX_VALUES)
#: Routes that need more: the shapes of a base's tensors, the 10,000 files of a manifest, the log lines of a heartbeat,
#: the samples of an evaluation.
LARGER: tuple[tuple[re.Pattern[str], Limit], ...] = (
    (re.compile(r"/api/v1/bases"), Limit(4 * _MIB, 4 * MAX_VALUES)),
    (re.compile(r"/api/v1/(uploads|versions|jobs/[^/]+/(checkpoints|heartbeat))"), Limit(4 * _MIB, MAX_VALUES)),
    (re.compile(r"/api/v1/jobs/[^/]+/complete"), Limit(8 * _MIB, MAX_VALUES)),
)
#: What bodies that are read or worked on may take, in all and of one token's: as they came, and as values.
RAW_BYTES, RAW_SHARE_BYTES = 32 * _MIB, 16 * _MIB
VALUES_BYTES, VALUES_SHARE_BYTES = 128 * _MIB, 80 * _MIB
#: A value takes no more than this beside its text, and a text six times its bytes: where one character of a document
#: needs four bytes, all of them are given four while it is parsed.
_VALUE_BYTES, _TEXT_TIMES = 100, 6
#: Larger bodies are parsed beside the event loop, and so many of them at a time.
APART_BYTES, PARSED_AT_ONCE = 64 * 1024, 1
#: How long a body may take to come in, in seconds.
READ_S = 60.0

#: In the scope: the value of the body, where there is one.
PARSED = "registry.parsed"

_PREFIX = "/api/v1/"
_JSON = b"application/json"
_CHARSET = re.compile(rb'[ \t]*charset=(?:utf-8|"utf-8")[ \t]*', re.IGNORECASE)

T = TypeVar("T")
_parsing: RunVar[CapacityLimiter] = RunVar("registry_parsing")


class Parsed(NamedTuple):
    """The value of a body, and how many bytes it was."""

    value: Any
    size_bytes: int


class StrictBodies:
    """ASGI middleware: refuses requests to the API whose text no rule could accept.

    It stands behind the gatekeeper, since whose request it is decides how much may be held for it. Paths below `besides`
    are let through unread: bytes stream there.
    """

    def __init__(self, app: ASGIApp, *, besides: str, read_s: float = READ_S) -> None:
        self._app = app
        self._besides = f"{besides}/"
        self._read_s = read_s
        self._raw = Held(total_bytes=RAW_BYTES, share_bytes=RAW_SHARE_BYTES)
        self._values = Held(total_bytes=VALUES_BYTES, share_bytes=VALUES_SHARE_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a body whole, check it, and hand it on with its value."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(_PREFIX) or path.startswith(self._besides):
            await self._app(scope, receive, send)
            return
        who = _caller(scope)
        limit = _limit_of(path)
        raw_bytes = value_bytes = 0
        try:
            try:
                _check_target(scope)
                expected_bytes = _expected(scope, limit.size_bytes)
                if expected_bytes:
                    await self._raw.take(who, expected_bytes)
                    raw_bytes = expected_bytes
                body = await _read(receive, expected_bytes, limit.size_bytes, self._read_s)
                if body:
                    _require_json(scope)
                    taken_bytes = _TEXT_TIMES * len(body) + _VALUE_BYTES * min(most_values(body), limit.values)
                    await self._values.take(who, taken_bytes)
                    value_bytes = taken_bytes
                    value = await sized(len(body), parse_strictly, body, max_values=limit.values)
                    scope = {**scope, "headers": _as_json(scope), PARSED: Parsed(value, len(body))}
            except RegistryError as error:
                await _refusal(error)(scope, receive, send)
                return
            except ClientDisconnect:
                return
            await self._app(scope, _replay(body, receive), send)
        finally:
            # Held until the request has been answered: so long does the application keep both.
            if raw_bytes:
                self._raw.give(who, raw_bytes)
            if value_bytes:
                self._values.give(who, value_bytes)


async def sized(size_bytes: int, call: Callable[..., T], *given: Any, **named: Any) -> T:
    """Call what takes time with the size of a body: at once where that is small, else beside the event loop.

    A refusal comes without its traceback: that would hold on to all that was parsed until the next collection of cycles.
    """

    def run() -> T | RegistryError | RequestValidationError:
        try:
            return call(*given, **named)
        except (RegistryError, RequestValidationError) as error:
            error.__traceback__ = error.__context__ = error.__cause__ = None
            return error

    if size_bytes <= APART_BYTES:
        found = run()
    else:
        limiter = _parsing.get(None)
        if limiter is None:
            limiter = CapacityLimiter(PARSED_AT_ONCE)
            _parsing.set(limiter)
        found = await run_sync(run, limiter=limiter)
    if isinstance(found, (RegistryError, RequestValidationError)):
        raise found
    return found


def _refusal(error: RegistryError) -> JSONResponse:
    return JSONResponse(error.reply().model_dump(), status_code=error.status, headers=error.headers)


def _caller(scope: Scope) -> str:
    principal: Principal = scope["principal"]
    return principal.token_id or principal.name


def _limit_of(path: str) -> Limit:
    return next((limit for pattern, limit in LARGER if pattern.fullmatch(path)), _USUAL)


def _check_target(scope: Scope) -> None:
    """Raise Invalid for NUL or broken UTF-8 in path or query."""
    check_text(scope["path"])
    for place, raw in (("path", scope.get("raw_path") or b""), ("query", scope["query_string"])):
        try:
            text = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise Invalid(f"the {place} is not UTF-8; percent-encode UTF-8") from None
        if "\0" in text:
            raise Invalid(f"the {place} has a NUL in it; send plain text")


def _require_json(scope: Scope) -> None:
    """Raise WrongMediaType for a body that is not called JSON, in exactly one way."""
    given = _all(scope, b"content-type")
    kind, *parameters = given[0].split(b";") if len(given) == 1 else [b""]
    if kind.strip(b" \t").lower() != _JSON or not all(_CHARSET.fullmatch(parameter) for parameter in parameters):
        said = given[0][:80].decode("latin-1") if len(given) == 1 else f"{len(given)} of them"
        raise WrongMediaType(
            f"the API takes JSON only, and Content-Type is {said!a}; send it with: Content-Type: application/json"
        )


def _as_json(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers, with the one spelling of the content type that whoever reads them next understands."""
    others = [(key, value) for key, value in scope["headers"] if key != b"content-type"]
    return [*others, (b"content-type", _JSON)]


def _expected(scope: Scope, most_bytes: int) -> int:
    """How many bytes to keep free for a body: as many as it says, or the most where it says nothing."""
    lengths = _all(scope, b"content-length")
    if not lengths:
        return most_bytes if _all(scope, b"transfer-encoding") else 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 20:
        raise Invalid("the Content-Length is no number; send it once, in bytes")
    if int(lengths[0]) > most_bytes:
        raise _too_large(most_bytes)
    return int(lengths[0])


async def _read(receive: Receive, expected_bytes: int, most_bytes: int, read_s: float) -> bytes:
    if not expected_bytes:
        return b""
    body = bytearray()
    try:
        async with asyncio.timeout(read_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    # Nobody is left to answer, and half a body means nothing.
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise TooSlow(f"the body did not come in within {read_s:g} s; send it faster") from None


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most_bytes} bytes; files go to storage by an upload session")


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


def _all(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
