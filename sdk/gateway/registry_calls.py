"""A gateway's questions to the registry, asked in threads: the calls wait, the event loop doesn't.

The threads end with the process: a question may wait for half a minute.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sdk.api import serving
from sdk.api.transport import Transport
from sdk.errors import AdapterctlError, TimedOut, Unavailable
from sdk.gateway.tables import LOOK_S
from sdk.schemas.serving import ServingTable, TokenStanding

T = TypeVar("T")

#: How often a registry in a folder is looked at, which has no feed, in seconds: one statement.
_LOOK_EMBEDDED_S = 1.0
#: How long a table, and what is known of a token, may take to come, in seconds.
_TABLE_S, _STANDING_S = 9.0, 5.0
#: The most tokens that are asked about at once.
_MOST_STANDINGS = 8


class RegistryCalls:
    """Those of one gateway."""

    def __init__(self, transport: Transport, *, say: Callable[[str], None] = lambda _line: None) -> None:
        self._transport, self._say = transport, say
        self.has_feed = transport.config.home is None
        self.look_s = LOOK_S if self.has_feed else _LOOK_EMBEDDED_S
        self._standings = asyncio.Semaphore(_MOST_STANDINGS)
        self._refusal: str | None = None

    async def table(self, namespace: str, known: str | None) -> ServingTable | None:
        """Return a table; None if it is still the edition `known`. Raises AdapterctlError."""
        return await _within(_TABLE_S, lambda: serving.table(self._transport, namespace, known=known))

    async def changed(self, namespace: str, after: str) -> bool:
        """Wait for a change. Raises AdapterctlError."""
        return await _within(None, lambda: serving.changed(self._transport, namespace, after=after))

    async def standing(self, sha256: str) -> TokenStanding:
        """Return what the holder of a token may do. Raises OSError while the registry doesn't say."""
        try:
            async with self._standings:
                return await _within(_STANDING_S, lambda: serving.standing(self._transport, sha256))
        except (Unavailable, TimedOut) as error:
            raise ConnectionError(str(error)) from error
        except AdapterctlError as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                self._say(f"the registry says nothing about callers' tokens: {error}")
            raise ConnectionError(str(error)) from error


async def _within(time_s: float | None, call: Callable[[], T]) -> T:
    """Return what a call returns, made in a thread of its own. Raises TimedOut."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(done: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            done(value)

    def run() -> None:
        # The loop may be gone by then.
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised where the call is waited for
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, future.set_exception, error)
        else:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, future.set_result, result)

    threading.Thread(target=run, daemon=True, name="gateway-registry").start()
    try:
        async with asyncio.timeout(time_s):
            return await future
    except TimeoutError:
        raise TimedOut("the registry does not answer in time; look whether it is busy") from None
