"""Wrong tokens: how many an address may send before it has to wait.

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

from registry.pools import Pool

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
