"""Waiting for what a test means, rather than for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Longer than any wait for something that does happen.
PATIENCE_S = 240.0
#: The pause between two looks, as a multiple of how long a look took: what is waited for may need the same core.
_REST = 19


def wait_until(
    there: Callable[[], T], otherwise: str | Callable[[], str] = "it does not come", timeout_s: float = PATIENCE_S
) -> T:
    """Return what `there` says once that is true, or fail with what `otherwise` says."""
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if found := there():
            return found
        ended = time.monotonic()
        assert ended < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(min(1.0, max(0.01, _REST * (ended - began))))


async def let_others_run(turns: int = 1) -> None:
    """Give the loop's other tasks so many turns."""
    for _ in range(turns):
        await asyncio.sleep(0)
