"""How much memory requests may hold at once: in all, and for one holder.

>>> budget = MemoryBudget(total_bytes=100, share_bytes=60)
>>> budget.try_take("ana", 50), budget.try_take("ana", 20), budget.try_take("ben", 50)
(True, False, True)
>>> budget.give("ben", 50)
>>> budget.try_take("ben", 40)
True
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from registry.errors import RateLimited, Unavailable

#: How long a request waits for others to give back what they hold, in seconds.
MEMORY_TIMEOUT_S = 10.0


@dataclass(eq=False)
class _Waiter:
    who: str
    size_bytes: int
    granted: asyncio.Event


class MemoryBudget:
    """Gives out bytes: never more than `total_bytes` in all, and never more than `share_bytes` to one holder."""

    def __init__(self, *, total_bytes: int, share_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._share_bytes = share_bytes
        self._taken_bytes = 0
        self._by_holder: dict[str, int] = {}
        self._waiting: list[_Waiter] = []

    @property
    def by_holder(self) -> Mapping[str, int]:
        """How much each holder has, for those that have any."""
        return self._by_holder

    def try_take(self, who: str, size_bytes: int) -> bool:
        """Take this many bytes if there is room for them now; say whether there was."""
        if self._is_beyond_share(who, size_bytes) or self._taken_bytes + size_bytes > self._total_bytes:
            return False
        self._by_holder[who] = self._by_holder.get(who, 0) + size_bytes
        self._taken_bytes += size_bytes
        return True

    async def take(self, who: str, size_bytes: int, *, timeout_s: float = MEMORY_TIMEOUT_S) -> None:
        """Take this many bytes, once there is room for them.

        Raises RateLimited if the holder's own requests leave no room for that long, Unavailable if everybody's do.
        """
        if not self._waiting and self.try_take(who, size_bytes):
            return
        waiter = _Waiter(who, size_bytes, asyncio.Event())
        self._waiting.append(waiter)
        self._grant()
        try:
            # No `wait_for`: before Python 3.12 it swallows a cancellation that comes together with what it waits for.
            async with asyncio.timeout(timeout_s):
                await waiter.granted.wait()
        except TimeoutError:
            if waiter.granted.is_set():
                return
            self._waiting.remove(waiter)
            if self._is_beyond_share(who, size_bytes):
                raise RateLimited(
                    "other requests of this namespace use all the memory that a namespace may; send fewer bodies at once"
                ) from None
            raise Unavailable(
                "the server is holding as many bodies as it can; send the same request again shortly"
            ) from None
        except asyncio.CancelledError:
            if waiter.granted.is_set():
                self.give(who, size_bytes)
            else:
                self._waiting.remove(waiter)
            raise

    def give(self, who: str, size_bytes: int) -> None:
        """Give back what was taken, and let in those that wait for it."""
        self._taken_bytes -= size_bytes
        left = self._by_holder[who] - size_bytes
        if left:
            self._by_holder[who] = left
        else:
            del self._by_holder[who]
        self._grant()

    def _grant(self) -> None:
        """Let in the requests for which there is room, in the order in which they came."""
        for waiter in list(self._waiting):
            if self.try_take(waiter.who, waiter.size_bytes):
                self._waiting.remove(waiter)
                waiter.granted.set()
            elif not self._is_beyond_share(waiter.who, waiter.size_bytes):
                # Nobody overtakes a request that waits for room in the total: otherwise one that needs much would wait
                # for ever.
                return

    def _is_beyond_share(self, who: str, size_bytes: int) -> bool:
        return self._by_holder.get(who, 0) + size_bytes > self._share_bytes
