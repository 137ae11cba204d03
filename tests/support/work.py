"""How much work is done, in calls: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Work:
    """The calls of functions, of Python and of C, that one thread has made."""

    calls: int = 0


@contextmanager
def counting(work: Work) -> Iterator[None]:
    """Add this thread's calls within the block."""

    def count(frame: Any, event: str, arg: Any) -> None:
        work.calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def calls_of(action: Callable[[], object]) -> int:
    """Return how many calls an action makes."""
    work = Work()
    with counting(work):
        action()
    return work.calls


def grows(action: Callable[[int], Callable[[], object]], size: int) -> float:
    """Return how many times more calls the action for twice the size makes: 2 where work is in proportion.

    `action` prepares the action for a size, whose calls don't count.
    """
    small, large = calls_of(action(size)), calls_of(action(2 * size))
    return large / small
