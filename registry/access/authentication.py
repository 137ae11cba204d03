"""Finds out who is asking, before anything else of a request is read; limits how often they may ask, and be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.failed_logins import FailedLogins
from registry.access.tokens import Tokens, secret_digest
from registry.errors import RateLimited, RegistryError, Unauthenticated
from registry.http.addresses import neighbourhood_of
from registry.http.paths import area_of
from registry.http.refusals import REFUSALS
from registry.principal import LOCAL, Principal

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
        rate_limit_per_s: float,
        failed_logins_per_minute: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._rate = rate_limit_per_s
        self._clock = clock
        self._failures = FailedLogins(per_minute=failed_logins_per_minute, clock=clock)
        self._known: dict[str, tuple[float, Principal]] = {}
        #: By token id: how many requests it has left, and when that was counted.
        self._buckets: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not area_of(path).wants_token:
            await self._app(scope, receive, send)
            return
        try:
            principal = LOCAL if self._tokens is None else await self._check(scope, self._tokens)
            wait_s = self._wait_s(principal)
        except RegistryError as error:
            headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthenticated) else error.headers
            await _answer(error, headers)(scope, receive, send)
            return
        if wait_s > 0:
            limited = RateLimited(
                f"this token may send {self._rate:g} requests a second; try again in {wait_s:.1f} s, or spread them"
            )
            await _answer(limited, {"Retry-After": str(max(1, round(wait_s + 0.5)))})(scope, receive, send)
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
        principal = await self._look_up(scope, tokens, secret, key)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = (now, principal)
        return principal

    async def _look_up(self, scope: Scope, tokens: Tokens, secret: str, key: str) -> Principal:
        """Ask the database who holds a secret. Raises Unauthenticated, or RateLimited after too many failures."""
        address = neighbourhood_of(scope.get("client"))
        try:
            if self._failures.has_failed(address, key):
                raise Unauthenticated("the token has failed before")
            async with self._failures.turn(address):
                return await run_in_threadpool(tokens.check, secret)
        except Unauthenticated:
            wait_s = self._failures.wait_s(address)
            self._failures.note(address, key)
            REFUSALS.note("log_in", address, "refused a token: address=%s token=%s", address, _shown(secret))
            if wait_s > 0:
                raise _too_many_failures(wait_s) from None
            raise

    def _wait_s(self, principal: Principal) -> float:
        """Take one request from the token's bucket; return how long to wait if it is empty."""
        if self._rate <= 0:
            return 0
        now = self._clock()
        key = principal.token_id or principal.name
        left, then = self._buckets.get(key, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        if left < 1:
            self._buckets[key] = (left, now)
            return (1 - left) / self._rate
        if len(self._buckets) >= _MOST:
            self._buckets.clear()
        self._buckets[key] = (left - 1, now)
        return 0

    @property
    def _burst(self) -> float:
        return max(1.0, 2 * self._rate)


def _answer(error: RegistryError, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(error.reply().model_dump(), status_code=error.status, headers=headers)


def _too_many_failures(wait_s: float) -> RateLimited:
    error = RateLimited(
        "too many wrong tokens came from this address, and this one is wrong too; set ADAPTERCTL_TOKEN to a valid one, "
        f"then try again in {wait_s:.0f} s"
    )
    error.retry_after_s = max(1, round(wait_s + 0.5))
    return error


def _shown(secret: str) -> str:
    """Enough of a secret to tell tokens apart, but useless to anybody."""
    if secret.startswith("actl_") and len(secret) > 20 and secret.isascii():
        return ascii(f"{secret[:9]}…")
    return "of another form"


def _bearer(scope: Scope) -> str:
    given = next((value for key, value in scope["headers"] if key == b"authorization"), b"")
    scheme, _, secret = given.decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
