"""Every pool, lane and queue of a server process: who waits in it, what bounds one item, and what one namespace gets.

Threads, limiters, locks that requests wait for, and child processes are made by a `Pool` and nowhere else, so none
exists without these facts. `python docs/pools.py` prints them as the table of docs/deploy.md.

>>> Pool("examples", waits="nobody", at_once="2", item="1 ms", share="all of it", kept=False).semaphore(2).acquire()
True
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from anyio import CapacityLimiter

#: All of this process, by name.
POOLS: dict[str, Pool] = {}


@dataclass(frozen=True)
class Occupancy:
    """How full a pool is."""

    running: int
    waiting: int
    #: How many may run at once.
    places: int


class Occupied(Protocol):
    """Whatever gives out the places of a pool."""

    @property
    def occupancy(self) -> Occupancy:
        """How full it is."""


#: What gives out the places of a pool, by its name. It is kept no longer for being watched.
_WATCHED: WeakValueDictionary[str, Occupied] = WeakValueDictionary()


def occupancies() -> dict[str, Occupancy]:
    """Return how full each pool is that is watched."""
    return {name: each.occupancy for name, each in list(_WATCHED.items())}


@dataclass(frozen=True, eq=False)
class Pool:
    """The facts about one pool, lane or queue. What is only waited in, such as room for bodies, makes nothing of it."""

    name: str
    _: KW_ONLY
    #: Who waits in it.
    waits: str
    #: How many are served at once.
    at_once: str
    #: What bounds one item, in bytes, steps or seconds.
    item: str
    #: What one namespace gets while others wait.
    share: str
    #: How much memory it holds at most, all items together, beyond what the process takes at rest.
    most_bytes: int = 0
    #: Whether it is one of those of a server process.
    kept: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for a second one of the same name."""
        if self.kept:
            if self.name in POOLS:
                raise ValueError(f"there is a pool {self.name!r} already")
            POOLS[self.name] = self

    def watch(self, occupied: Occupied) -> None:
        """Let monitoring ask how full it is, as long as what gives out its places is in use."""
        _WATCHED[self.name] = occupied

    def limiter(self, count: int) -> CapacityLimiter:
        """Threads of the event loop, this many at a time."""
        from anyio import CapacityLimiter

        return CapacityLimiter(count)

    def executor(self, count: int) -> ThreadPoolExecutor:
        """This many threads, with a queue before them."""
        return ThreadPoolExecutor(count, thread_name_prefix=self.name.replace(" ", "-"))

    def semaphore(self, count: int) -> threading.BoundedSemaphore:
        """Places for this many threads."""
        return threading.BoundedSemaphore(count)

    def lock(self) -> asyncio.Lock:
        """What requests wait for one by one."""
        return asyncio.Lock()

    def thread(self, target: Callable[..., object], *, name: str, **given: Any) -> threading.Thread:
        """A thread that ends with the process at the latest; it is not started."""
        return threading.Thread(target=target, name=name, kwargs=given, daemon=True)

    def process(self, args: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """A child process, started. Raises OSError."""
        return subprocess.Popen(args, **options)  # noqa: S603 - our own interpreter and modules

    def forked(self) -> int:
        """A copy of this process, which must have one thread: 0 in the copy, its id otherwise. Raises OSError."""
        return os.fork()
