"""Finds out who is asking, before anything else of a request is read.

How often they may ask, and be wrong, is limited by `CallerLimits`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.caller_limits import CallerLimits
from registry.access.secret_digests import secret_digest
from registry.errors import RegistryError
from registry.http.paths import area_of
from registry.http.refusals import refused
from registry.principal import LOCAL, Principal

if TYPE_CHECKING:
    # A registry in a folder has none.
    from registry.access.tokens import Tokens

#: How long the database's answer about a token is cached, in seconds: a revoked token fails everywhere after that.
TRUST_S = 0.5
#: How many tokens are remembered at once.
_MOST = 10_000


class Gatekeeper:
    """ASGI middleware: puts the caller's `Principal` into the scope, or answers 401 or 429."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        limits: CallerLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._limits = limits
        self._clock = clock
        self._known: dict[str, tuple[float, Principal]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not area_of(path).wants_token:
            await self._app(scope, receive, send)
            return
        try:
            principal = LOCAL if self._tokens is None else await self._check(scope, self._tokens)
            self._limits.count(principal)
        except RegistryError as error:
            await refused(error)(scope, receive, send)
            return
        scope["principal"] = principal
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope, tokens: Tokens) -> Principal:
        secret = _bearer(scope)
        now = self._clock()
        key = secret_digest(secret)
        known = self._known.get(key)
        if known is not None and now - known[0] < TRUST_S:
            return known[1]
        if not secret:
            return tokens.check(None)
        principal = await self._limits.look_up(scope.get("client"), secret, tokens.check)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = (now, principal)
        return principal


def _bearer(scope: Scope) -> str:
    given = next((value for key, value in scope["headers"] if key == b"authorization"), b"")
    scheme, _, secret = given.decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
