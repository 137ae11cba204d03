"""What each server process is: the application, the memory that it gives back, and the watch that ends it once it is silent.

A process whose event loop is silent answers nobody, not even a request to stop. The time is taken by a thread of
`faulthandler`, which needs no lock of the interpreter, so that it also ends a process that is in the middle of one long
call into C. It writes where each thread is to the standard error, and the process exits with 1; whoever started it,
another process of `serve` or `up` or the machine's own supervisor, starts it again.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import Any

#: mallopt(3): pieces of at least this size are mapped separately. Unless it is set, glibc raises it to the size of whatever
#: is freed, up to 32 MiB, and bodies and answers of 4 MiB leave gaps in the heap of each thread.
_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 1024 * 1024
#: How much may be free at the end of a heap. Setting the other fixes this one at 128 KiB, which each request would give
#: back and take again.
_TRIM_THRESHOLD, _FREE_BYTES = -1, 8 * 1024 * 1024
#: How often the loop shows that it is not silent, in seconds.
_BEAT_S = 1.0
_STANDARD_ERROR = 2

#: What a server does around serving an application: `FastAPI.router.lifespan_context`.
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def app_from_env() -> Any:
    """The application that each server process serves."""
    from gc import collect

    from sdk.imports import nothing_collected

    # The parts of a server live as long as it does: no collection needs to look through them.
    with nothing_collected(ever=True):
        from registry.app.application import create_app
        from registry.settings import Settings

        map_large_pieces()
        settings = Settings.from_env()
        app = create_app(settings)
        app.router.lifespan_context = watched(app.router.lifespan_context, silent_s=settings.silent_s)
        collect()
    return app


def map_large_pieces() -> None:
    """From now on, map each large piece separately, so that it is returned once it is freed.

    Other C libraries than glibc are left as they are.
    """
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, _FREE_BYTES)


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
