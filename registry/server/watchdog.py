"""Ends a server process whose event loop is silent: it answers nobody, not even a request to stop.

The time is taken by a thread of `faulthandler`, which needs no lock of the interpreter, so that it also ends a process
that is in the middle of one long call into C. It writes where each thread is to the standard error, and the process
exits with 1; whoever started it, another process of `serve` or `up` or the machine's own supervisor, starts it again.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import Any

#: How often the loop shows that it is not silent, in seconds.
_BEAT_S = 1.0
_STANDARD_ERROR = 2

#: What a server does around serving an application: `FastAPI.router.lifespan_context`.
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def watched(lifespan: Lifespan, *, silent_s: float) -> Lifespan:
    """Return a lifespan that also watches the loop, from when the application has started until it has ended.

    The process is ended once the loop has been silent for `silent_s`; 0: never. Time during which the machine sleeps does
    not count, but time during which only this process was stopped does.
    """

    @asynccontextmanager
    async def watch(app: Any) -> AsyncIterator[Any]:
        with ExitStack() as watch:
            async with lifespan(app) as state:
                if silent_s > 0:
                    watch.enter_context(_watching(silent_s))
                yield state

    return watch


@contextmanager
def _watching(silent_s: float) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    next_beat: asyncio.TimerHandle

    def beat() -> None:
        nonlocal next_beat
        # This replaces the timer of the last beat.
        faulthandler.dump_traceback_later(silent_s, file=_STANDARD_ERROR, exit=True)
        next_beat = loop.call_later(min(_BEAT_S, silent_s / 4), beat)

    beat()
    try:
        yield
    finally:
        next_beat.cancel()
        faulthandler.cancel_dump_traceback_later()
