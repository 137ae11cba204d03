"""How much work a call does in Python, counted: unlike its time, it is the same on a busy machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps_of(call: Callable[[], object]) -> int:
    """Return how many instructions of Python a call runs, whether it raises or not.

    What one call into C does is one of them, however much that is.
    """
    steps = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal steps
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        steps += event == "opcode"
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
    """Assert that the work of `make(n)` grows as n does at the last of some doublings of it; what `make` itself does is
    not counted.

    Twice as much of linear work is twice as many steps at most, of quadratic work it is nearly four times as many.
    """
    counts = [steps_of(make(smallest << doubling)) for doubling in range(doublings + 1)]
    assert counts[-1] < 2.3 * counts[-2], f"{counts} steps for {smallest} and its doubles"
