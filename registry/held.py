"""How much memory requests may hold at once: in all, and for one caller.

>>> held = Held(total_bytes=100, share_bytes=60)
>>> held.try_take("ana", 50), held.try_take("ana", 20), held.try_take("ben", 50)
(True, False, True)
>>> held.give("ben", 50)
>>> held.try_take("ben", 40)
True
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from registry.errors import RateLimited, Unavailable

#: How long a request waits for others to give back what they hold, in seconds.
PATIENCE_S = 10.0


@dataclass(eq=False)
class _Waiter:
    who: str
    size_bytes: int
    granted: asyncio.Event


class Held:
    """A sum of bytes that is never above `total_bytes`, of which no caller has more than `share_bytes`."""

    def __init__(self, *, total_bytes: int, share_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._share_bytes = share_bytes
        self._taken_bytes = 0
        self._by_caller: dict[str, int] = {}
        self._waiting: deque[_Waiter] = deque()

    def try_take(self, who: str, size_bytes: int) -> bool:
        """Take so many bytes where there is room for them now; say whether there was."""
        mine = self._by_caller.get(who, 0) + size_bytes
        if mine > self._share_bytes or self._taken_bytes + size_bytes > self._total_bytes:
            return False
        self._by_caller[who] = mine
        self._taken_bytes += size_bytes
        return True

    async def take(self, who: str, size_bytes: int, *, patience_s: float = PATIENCE_S) -> None:
        """Take so many bytes, once there is room for them.

        Raises RateLimited where the caller's own requests leave no room for so long, Unavailable where everybody's do.
        """
        if not self._waiting and self.try_take(who, size_bytes):
            return
        waiter = _Waiter(who, size_bytes, asyncio.Event())
        self._waiting.append(waiter)
        self._grant()
        try:
            await asyncio.wait_for(waiter.granted.wait(), patience_s)
        except TimeoutError:
            if waiter.granted.is_set():
                return
            self._waiting.remove(waiter)
            if self._by_caller.get(who, 0) + size_bytes > self._share_bytes:
                raise RateLimited(
                    "this token's other requests hold all the memory that a token may; send fewer large bodies at once"
                ) from None
            raise Unavailable("the server holds as many large bodies as it can; send the same again shortly") from None
        except asyncio.CancelledError:
            if waiter.granted.is_set():
                self.give(who, size_bytes)
            else:
                self._waiting.remove(waiter)
            raise

    def give(self, who: str, size_bytes: int) -> None:
        """Give back what was taken, and let in who waits for it."""
        self._taken_bytes -= size_bytes
        left = self._by_caller[who] - size_bytes
        if left:
            self._by_caller[who] = left
        else:
            del self._by_caller[who]
        self._grant()

    def _grant(self) -> None:
        """Let in those for whom there is room, in the order in which they came."""
        for waiter in list(self._waiting):
            if self.try_take(waiter.who, waiter.size_bytes):
                self._waiting.remove(waiter)
                waiter.granted.set()
