"""Every pool, lane and queue of a server process: who waits in it, what bounds one item, and what one namespace gets.

Threads, limiters, locks that requests wait for, and child processes are made by a `Pool` and nowhere else, so none
exists without these facts. `python -m registry.pools` prints them as the table of docs/deploy.md.

>>> pool = Pool("examples", waits="nobody", at_once="1", item="1 ms", share="all of it", kept=False)
>>> pool.row()
'| examples | nobody | 1 | 1 ms | all of it | |'
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyio import CapacityLimiter

_MIB = 1024 * 1024
#: By name, in the order in which they were made.
_all: dict[str, Pool] = {}

_HEAD = (
    "| Pool | Who waits in it | At once | What bounds one item | Share of a namespace | MiB |",
    "|---|---|---|---|---|---|",
)


class Pool:
    """The facts about one pool, lane or queue. What is only waited in, such as room for bodies, makes nothing of it."""

    def __init__(
        self, name: str, *, waits: str, at_once: str, item: str, share: str, most_bytes: int = 0, kept: bool = True
    ) -> None:
        """`waits` says who waits in it, `at_once` how many are served at once, `item` what bounds one item in bytes,
        steps or seconds, and `share` what one namespace gets while others wait.

        `most_bytes` is how much memory it holds at most, all items together, beyond what the process takes at rest.
        """
        self.name = name
        self.waits = waits
        self.at_once = at_once
        self.item = item
        self.share = share
        self.most_bytes = most_bytes
        if kept:
            if name in _all:
                raise ValueError(f"there is a pool {name!r} already")
            _all[name] = self

    def row(self) -> str:
        """Its row of the table, in Markdown."""
        mib = f" {-(-self.most_bytes // _MIB)} " if self.most_bytes else " "
        return f"| {self.name} | {self.waits} | {self.at_once} | {self.item} | {self.share} |{mib}|"

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


def pools() -> list[Pool]:
    """All pools of a server process, by name."""
    import pkgutil
    from importlib import import_module

    import registry

    for module in pkgutil.walk_packages(registry.__path__, "registry."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    # Run as a program, this file is not the module that the others have put themselves into.
    known: dict[str, Pool] = import_module("registry.pools")._all
    return [known[name] for name in sorted(known)]


def table() -> str:
    """The table of docs/deploy.md, in Markdown."""
    every = pools()
    most_bytes = sum(pool.most_bytes for pool in every)
    total = f"| all together | | | | | {-(-most_bytes // _MIB)} |"
    return "\n".join((*_HEAD, *(pool.row() for pool in every), total)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
