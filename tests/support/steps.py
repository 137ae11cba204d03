"""How much work a call does in Python, counted: unlike its time, it is the same on a busy machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps_of(call: Callable[[], object]) -> int:
    """Return how many lines of Python a call runs, each round of a comprehension included, whether it raises or not.

    What one call into C does is not counted.
    """
    steps = 0

    def trace(_frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal steps
        steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Exception:  # noqa: BLE001 - a refusal is work, too
        pass
    finally:
        sys.settrace(before)
    return steps


def require_linear(make: Callable[[int], Callable[[], object]], smallest: int, *, doublings: int = 3) -> None:
    """Assert that the work of `make(n)` does not grow faster than n, from `smallest` on; what it does once is not counted
    if `make` does it.
    """
    counts = [steps_of(make(smallest << doubling)) for doubling in range(doublings + 1)]
    grown = [(after + 1) / (before + 1) for before, after in zip(counts, counts[1:], strict=False)]
    assert min(grown) < 2.6, f"{counts} steps for {smallest} and its doubles"
