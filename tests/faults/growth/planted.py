"""Faults as the search should find them: if it finds none of these, it would find nothing."""

from __future__ import annotations

import time
from collections.abc import Callable


def _busy(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


def _hangs(size_bytes: int) -> None:
    if size_bytes > 8000:
        _busy(60)


def _holds(size_bytes: int) -> None:
    assert len(bytearray(size_bytes * 2000)) > 0


#: By name: what is done with so many bytes.
PLANTED: dict[str, Callable[[int], None]] = {
    "square": lambda size_bytes: _busy((size_bytes / 60_000) ** 2 * 0.6),
    "large factor": lambda size_bytes: _busy(size_bytes * 3e-5),
    "hangs": _hangs,
    "holds memory": _holds,
}
