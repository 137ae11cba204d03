"""The route that every server of adapters waits for, `GET /api/v1/resolve`, answered from the stored text.

What it can't answer in one look-up it leaves to the route behind it: errors, digests, what the caller may not see whole.
Both give the same JSON.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from sqlalchemy import ClauseElement, Integer, String, bindparam, or_, select
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.catalog.models import Adapter, Alias, Version, VersionDocument
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.lifecycle import PULLABLE
from registry.db.lookups import Lookups
from registry.principal import Principal
from sdk.formats.refs import BadNameError, BadRefError, Ref

_PATH = "/api/v1/resolve"
#: One `ref` and nothing else.
_QUERY = re.compile(rb"ref=([A-Za-z0-9._@%/-]{1,300})")
#: Queries that are remembered parsed.
_PARSED = 4096

_of_adapter = (
    select(VersionDocument.body, VersionDocument.foreign)
    .join(Version, Version.pk == VersionDocument.version_pk)
    .join(Adapter, Adapter.pk == Version.adapter_pk)
    .where(Adapter.name == bindparam("adapter", type_=String), or_(*(Version.state == state for state in PULLABLE)))
)
_latest = _of_adapter.where(Version.number == Adapter.latest_number)
_numbered = _of_adapter.where(Version.number == bindparam("selector", type_=Integer))
_aliased = _of_adapter.join(Alias, (Alias.version_pk == Version.pk) & (Alias.adapter_pk == Adapter.pk)).where(
    Alias.name == bindparam("selector", type_=String)
)


class _Asked(NamedTuple):
    namespace: str
    query: ClauseElement
    values: dict[str, str | int]


class HotResolve:
    """ASGI middleware inside the gatekeeper: answers what it can of `GET /api/v1/resolve`, and lets the rest through."""

    def __init__(self, app: ASGIApp, *, lookups: Lookups) -> None:
        self._app = app
        self._lookups = lookups

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand the request on."""
        if scope["type"] == "http" and scope["path"] == _PATH and scope["method"] == "GET":
            body = await self._find(scope)
            if body is not None:
                length = str(len(body)).encode()
                headers = [(b"content-length", length), (b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)

    async def _find(self, scope: Scope) -> bytes | None:
        asked = _parse(scope["query_string"])
        who: Principal = scope["principal"]
        if asked is None or not who.may("read", asked.namespace) or _has_body(scope):
            return None
        found = await self._lookups.first(asked.query, **asked.values)
        if found is None:
            return None
        body, foreign = found
        # Which of the other namespaces' versions the caller may see is not for one look-up to say.
        if foreign and who.namespaces() is not None:
            return None
        text: str = body
        return text.encode()


@lru_cache(_PARSED)
def _parse(query: bytes) -> _Asked | None:
    """Return what is to be looked up, or None for a query that is not one plain ref."""
    match = _QUERY.fullmatch(query)
    if match is None:
        return None
    try:
        ref = Ref.parse(unquote(match[1].decode("ascii")))
    except (BadNameError, BadRefError):
        return None
    values: dict[str, str | int] = {"adapter": ref.adapter}
    if ref.selector == "latest":
        return _Asked(space_of(ref.adapter), _latest, values)
    if ref.number is not None:
        return _Asked(space_of(ref.adapter), _numbered, {**values, "selector": ref.number})
    if ref.alias is not None:
        return _Asked(space_of(ref.adapter), _aliased, {**values, "selector": ref.alias})
    return None


def _has_body(scope: Scope) -> bool:
    """Whether something comes that is to be checked first."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
