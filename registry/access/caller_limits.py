"""How often callers may ask, and be wrong: the same for those with a token and for those with a session of pages.

A valid secret is never refused because of what others at its address send: it is always looked up, if necessary after
theirs, one at a time. Only failed ones are answered with 429.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from registry.access.secret_digests import secret_digest
from registry.errors import RateLimited, Unauthenticated
from registry.http.addresses import neighbourhood_of
from registry.http.refusals import REFUSALS
from registry.pools import Pool
from registry.principal import Principal

T = TypeVar("T")

#: How many addresses are remembered at once, and how many wrong secrets of each.
_ADDRESSES, _TOKENS = 10_000, 32
#: How many tokens' requests are counted at once.
_MOST = 10_000
_WINDOW_S = 60.0
#: How many bytes of a secret's digest are kept.
_KEPT_BYTES = 16
_POOL = Pool(
    "wrong tokens",
    waits="requests of an address that has sent too many wrong tokens",
    at_once="1 of each address",
    item="one read of the database by key",
    share="an address; who has a token that is known does not wait here",
)


class CallerLimits:
    """The limits of one process: requests by token, failures by address."""

    def __init__(
        self,
        *,
        rate_limit_per_s: float = 0.0,
        failed_logins_per_minute: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate_limit_per_s
        self._clock = clock
        self._failures = FailedLogins(per_minute=failed_logins_per_minute, clock=clock)
        #: By token id: how many requests it has left, and when that was counted.
        self._buckets: dict[str, tuple[float, float]] = {}

    async def look_up(
        self, client: tuple[str, int] | None, secret: str, check: Callable[[str], T], *, notes: bool = True
    ) -> T:
        """Ask the database about a secret of somebody at an address; `notes`: a wrong one is counted and logged.

        Raises what `check` does, and RateLimited instead of Unauthenticated after too many failures.
        """
        address, key = neighbourhood_of(client), secret_digest(secret)
        try:
            if self._failures.has_failed(address, key):
                raise Unauthenticated("the token has failed before")
            async with self._failures.turn(address):
                return await run_in_threadpool(check, secret)
        except Unauthenticated:
            wait_s = self._failures.wait_s(address)
            self._failures.note(address, key)
            if notes:
                REFUSALS.note("log_in", address, "refused a token: address=%s token=%s", address, _shown(secret))
            if wait_s > 0:
                raise _limited(
                    "too many wrong tokens came from this address, and this one is wrong too; set ADAPTERCTL_TOKEN to a valid one, "
                    f"then try again in {wait_s:.0f} s",
                    wait_s,
                ) from None
            raise

    def count(self, principal: Principal) -> None:
        """Count a request. Raises RateLimited if its token has sent as many as it may."""
        wait_s = self._wait_s(principal)
        if wait_s > 0:
            raise _limited(
                f"this token may send {self._rate:g} requests per second; try again in {wait_s:.1f} s, or spread them",
                wait_s,
            )

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
