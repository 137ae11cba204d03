"""Finds out who is asking, before anything else of a request is read; limits how often they may ask, and be wrong.

A valid token is never refused because of what others at its address send: it is always looked up, if necessary after
theirs, one at a time. Only failed tokens are answered with 429.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.tokens import Tokens, secret_digest
from registry.errors import RateLimited, RegistryError, Unauthenticated
from registry.http.addresses import neighbourhood_of
from registry.http.paths import area_of
from registry.http.refusals import REFUSALS, refused
from registry.pools import Pool
from registry.principal import LOCAL, Principal

#: How long the database's answer about a token is cached, in seconds: a revoked token fails everywhere after that.
TRUST_S = 0.5
#: How many tokens are remembered at once.
_MOST = 10_000


#: How many addresses are remembered at once, and how many wrong tokens of each.
_ADDRESSES, _TOKENS = 10_000, 32
_WINDOW_S = 60.0
#: How many bytes of a token's digest are kept.
_KEPT_BYTES = 16
_POOL = Pool(
    "wrong tokens",
    waits="requests of an address that has sent too many wrong tokens",
    at_once="1 of each address",
    item="one read of the database by key",
    share="an address; who has a token that is known does not wait here",
)


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
            if (wait_s := self._wait_s(principal)) > 0:
                said = (
                    f"this token may send {self._rate:g} requests a second; try again in {wait_s:.1f} s, or spread them"
                )
                raise _limited(said, wait_s)
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
                said = "too many wrong tokens came from this address, and this one is wrong too; set ADAPTERCTL_TOKEN to a valid one, "
                raise _limited(f"{said}then try again in {wait_s:.0f} s", wait_s) from None
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


def _limited(message: str, wait_s: float) -> RateLimited:
    error = RateLimited(message)
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


@dataclass(slots=True)
class _Address:
    """What is remembered about one address."""

    #: How many failures it has left, and when that was counted.
    left: float
    counted_at: float
    #: Digests of the tokens that failed last, concatenated in that order. A wrong token never becomes valid:
    #: each secret is newly generated.
    wrong: bytes = b""
    turn: asyncio.Lock = field(default_factory=_POOL.lock)


class FailedLogins:
    """Failures by address, of one process."""

    def __init__(self, *, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed = float(per_minute)
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long until one more failure of an address is allowed; 0 if it is allowed now."""
        found = self._addresses.get(address)
        if found is None:
            return 0.0
        left = self._left(found)
        return 0.0 if left >= 1 else (1 - left) * _WINDOW_S / self._allowed

    def has_failed(self, address: str, digest: str) -> bool:
        """Whether this token was among the last wrong ones of an address that has sent too many."""
        found = self._addresses.get(address)
        return found is not None and self._left(found) < 1 and _holds(found.wrong, _kept(digest))

    def note(self, address: str, digest: str) -> None:
        """Remember a failure."""
        now = self._clock()
        found = self._addresses.pop(address, None) or _Address(self._allowed, now)
        found.left = max(0.0, self._left(found) - 1)
        found.counted_at = now
        kept = _kept(digest)
        if not _holds(found.wrong, kept):
            found.wrong = (found.wrong + kept)[-_TOKENS * _KEPT_BYTES :]
        self._addresses[address] = found
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Forget the addresses that failed longest ago, if there are too many or they have their full allowance again."""
        while self._addresses:
            oldest = next(iter(self._addresses.values()))
            if len(self._addresses) <= _ADDRESSES and now - oldest.counted_at < _WINDOW_S:
                return
            self._addresses.popitem(last=False)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait until no other token is being looked up for this address, if it has sent too many wrong ones."""
        found = self._addresses.get(address)
        if found is None or self._left(found) >= 1:
            yield
            return
        async with found.turn:
            yield

    def _left(self, found: _Address) -> float:
        passed_s = self._clock() - found.counted_at
        return min(self._allowed, found.left + passed_s * self._allowed / _WINDOW_S)


def _kept(digest: str) -> bytes:
    return bytes.fromhex(digest)[:_KEPT_BYTES]


def _holds(wrong: bytes, kept: bytes) -> bool:
    at = wrong.find(kept)
    # A match across the border of two digests doesn't count.
    while at % _KEPT_BYTES and at >= 0:
        at = wrong.find(kept, at + 1)
    return at >= 0
