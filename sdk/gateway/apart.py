"""Calls that wait, made in threads of their own, so that the event loop doesn't.

The threads end with the process, which doesn't wait for them: one of the loop's own pool, that waits for a registry which hangs, would
hold up the end for a minute.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sdk.errors import TimedOut

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, within_s: float | None = None, late: str = "it takes too long") -> T:
    """Return what a call returns, or raise what it raises. Raises TimedOut, which says `late`; the call goes on then."""
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

    threading.Thread(target=run, daemon=True, name="gateway-call").start()
    try:
        async with asyncio.timeout(within_s):
            return await future
    except TimeoutError:
        raise TimedOut(late) from None
