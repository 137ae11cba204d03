"""How the pieces of an answer get from the decode loop's thread to the event loop: in order, and never more than a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workers.serving.decoding.requests import Ended, Token

#: The most tokens that wait for a client that reads slowly.
MOST_WAITING = 1024


class Mailbox:
    """The pieces of one answer that its client has not been sent yet."""

    def __init__(self, *, most: int = MOST_WAITING, on_full: Callable[[], object] = lambda: None) -> None:
        """To be made in the event loop, which calls `on_full` once."""
        self._loop, self._most, self._on_full = asyncio.get_running_loop(), most, on_full
        self._pieces: list[Token | Ended] = []
        self._arrived = asyncio.Event()
        #: Whether more came than wait here; nothing more is taken then.
        self.overflowed = False

    def put(self, piece: Token | Ended) -> None:
        """Add a piece; any thread may."""
        try:
            self._loop.call_soon_threadsafe(self._take, piece)
        except RuntimeError:
            # The event loop has ended, and nobody waits.
            return

    async def take(self) -> list[Token | Ended]:
        """Return all that wait, at least one."""
        await self._arrived.wait()
        self._arrived.clear()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _take(self, piece: Token | Ended) -> None:
        if self.overflowed:
            return
        if len(self._pieces) >= self._most and isinstance(piece, Token):
            self.overflowed = True
            self._pieces.clear()
            self._on_full()
            return
        self._pieces.append(piece)
        self._arrived.set()
