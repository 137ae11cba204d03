"""Checks what comes in before any route sees it: who may send what, how much of it, and what it says.

A body is parsed once, by `registry.door.strict_json`. The checked value is passed on in the scope to the views, so that
no second parser with other rules ever reads the body.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, nullcontext
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.door.incoming_bodies import READ_S, BodyBudget, Incoming, too_large
from registry.door.strict_json import check_text, most_values, parse_strictly
from registry.errors import Forbidden, Invalid, RegistryError, WrongMediaType
from registry.http.bodies import APART_BYTES, LARGER, PARSED, Parsed, limit_of, sized
from registry.http.lanes import answering
from registry.http.paths import area_of
from registry.http.refusals import refused
from registry.http.rights import Rights, note_forbidden
from registry.pools import Pool
from registry.principal import Principal

_MIB = 1024 * 1024
#: How much memory all bodies that come in or are worked on may take, in total and for one namespace: as bytes, and as
#: values. Small ones have room of their own, and don't wait for larger ones.
RAW_BYTES, RAW_SHARE_BYTES = 12 * _MIB, 8 * _MIB
SMALL_RAW_BYTES, SMALL_RAW_SHARE_BYTES = 4 * _MIB, 3 * _MIB
VALUES_BYTES, VALUES_SHARE_BYTES = 58 * _MIB, 44 * _MIB
SMALL_VALUES_BYTES, SMALL_VALUES_SHARE_BYTES = 10 * _MIB, 7 * _MIB
#: How much memory pieces of bodies may take that have arrived but wait for room.
_WAITING_BYTES, _SMALL_WAITING_BYTES = 3 * _MIB, _MIB
Pool(
    "room for bodies",
    waits="pieces of bodies that come in; those of more than 64 KiB apart from smaller ones",
    at_once="by bytes",
    item=f"{LARGER[0][1].size_bytes // _MIB} MiB, {READ_S:g} s to come in",
    share=f"{RAW_SHARE_BYTES // _MIB} MiB, and {SMALL_RAW_SHARE_BYTES // _MIB} MiB of small ones",
    most_bytes=RAW_BYTES + SMALL_RAW_BYTES + _WAITING_BYTES + _SMALL_WAITING_BYTES,
)
Pool(
    "room for values",
    waits="bodies that are to be parsed, until their requests are answered",
    at_once="by bytes",
    item="6 times its text, and 100 bytes a value",
    share=f"{VALUES_SHARE_BYTES // _MIB} MiB, and {SMALL_VALUES_SHARE_BYTES // _MIB} MiB of small ones",
    most_bytes=VALUES_BYTES + SMALL_VALUES_BYTES,
)
#: A value takes at most this in addition to its text, and a text takes six times its bytes: if one character of a
#: document needs four bytes, each of them takes four while it is parsed.
_VALUE_BYTES, _TEXT_TIMES = 100, 6
_JSON = b"application/json"
_CHARSET = re.compile(rb'[ \t]*charset=(?:utf-8|"utf-8")[ \t]*', re.IGNORECASE)


class StrictBodies:
    """ASGI middleware: refuses requests to the API whose text no rule could accept.

    It comes after the gatekeeper, because bodies are held for the caller's namespace. A caller that may nowhere do what
    a request asks for is refused before its body is read.
    """

    def __init__(self, app: ASGIApp, *, rights: Rights) -> None:
        self._app = app
        self._rights = rights
        self._incoming = Incoming(
            small=BodyBudget(
                total_bytes=SMALL_RAW_BYTES, share_bytes=SMALL_RAW_SHARE_BYTES, waiting_bytes=_SMALL_WAITING_BYTES
            ),
            large=BodyBudget(total_bytes=RAW_BYTES, share_bytes=RAW_SHARE_BYTES, waiting_bytes=_WAITING_BYTES),
            small_bytes=APART_BYTES,
        )
        self._small_values = BodyBudget(total_bytes=SMALL_VALUES_BYTES, share_bytes=SMALL_VALUES_SHARE_BYTES)
        self._values = BodyBudget(total_bytes=VALUES_BYTES, share_bytes=VALUES_SHARE_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a body whole, check it, and hand it on with its value."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not area_of(path).takes_json:
            known: Principal | None = scope.get("principal")
            with nullcontext() if known is None else answering(known, receive):
                await self._app(scope, receive, send)
            return
        who: Principal = scope["principal"]
        limit = limit_of(path)
        raw = b""
        # Both are held until the request has been answered, because the application keeps them that long.
        with ExitStack() as held:
            try:
                _check_target(scope)
                if (announced_bytes := _announced_bytes(scope)) != 0:
                    self._rights.require(scope)
                    if announced_bytes is not None and announced_bytes > limit.size_bytes:
                        raise too_large(limit.size_bytes)
                    body = self._incoming.begin(who)
                    held.callback(body.leave)
                    raw = await self._incoming.read(body, receive, most_bytes=limit.size_bytes)
                if raw:
                    _require_json(scope)
                    values = self._small_values if len(raw) <= APART_BYTES else self._values
                    made = values.begin(who, is_whole=True)
                    held.callback(made.leave)
                    await values.take(made, _TEXT_TIMES * len(raw) + _VALUE_BYTES * min(most_values(raw), limit.values))
                    with answering(who, receive):
                        value = await sized(len(raw), parse_strictly, raw, max_values=limit.values)
                    scope = {**scope, PARSED: Parsed(value, len(raw))}
            except RegistryError as error:
                if isinstance(error, Forbidden):
                    note_forbidden(scope, error)
                await refused(error)(scope, receive, send)
                return
            except ClientDisconnect:
                return
            with answering(who, receive):
                await self._app(scope, _replay(raw, receive), send)


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
    """Raise WrongMediaType for a body without exactly one content type, JSON."""
    given = _all(scope, b"content-type")
    kind, *parameters = given[0].split(b";") if len(given) == 1 else [b""]
    if kind.strip(b" \t").lower() != _JSON or not all(_CHARSET.fullmatch(parameter) for parameter in parameters):
        said = given[0][:80].decode("latin-1") if len(given) == 1 else f"{len(given)} of them"
        raise WrongMediaType(
            f"the API takes JSON only, and Content-Type is {said!a}; send it with: Content-Type: application/json"
        )


def _announced_bytes(scope: Scope) -> int | None:
    """How long a body the request announces; None if one follows whose length is not known. Raises Invalid."""
    lengths = _all(scope, b"content-length")
    if not lengths:
        return None if _all(scope, b"transfer-encoding") else 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 20:
        raise Invalid("the Content-Length is not a number; send it once, in bytes")
    return int(lengths[0])


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body again, then anything that comes after it."""
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
