"""What a request costs, and when that is too much for what was sent.

Three rules: a cost must not grow by more than `MOST_GROWTH` at each of three doublings in a row, must be in proportion to
the bytes that were sent, and must stay below what one request may take at all.

>>> linear = [Cost(sent_bytes=n, cpu_s=n * 1e-6, peak_bytes=n * 10, gap_s=0) for n in (10**4, 2 * 10**4, 4 * 10**4)]
>>> complaints(linear)
[]
>>> square = [Cost(sent_bytes=n, cpu_s=(n * 1e-5) ** 2, peak_bytes=0, gap_s=0) for n in (10**4, 2 * 10**4, 4 * 10**4, 8 * 10**4)]
>>> complaints(square)
['processor time grows 4.0 × at each doubling: 0.010, 0.040, 0.160, 0.640 s for 10000 to 80000 bytes']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

#: How much a cost may grow if twice as much is sent, at each of `DOUBLINGS` in a row.
MOST_GROWTH = 2.6
DOUBLINGS = 3
#: Below these, costs are not looked at: a clock tick, a page of a new arena.
LOOKED_AT_S = 0.03
LOOKED_AT_BYTES = 8 * 1024 * 1024
#: What anything may take, and what each byte may add: of processor time, and of memory at its peak. A number of two bytes in a
#: list is an object of 32, with a place of 8, and pydantic makes another list of them.
FREE_S, S_PER_BYTE = 0.25, 8e-6
FREE_BYTES, BYTES_PER_BYTE = 24 * 1024 * 1024, 120
#: How long the loop may work on one thing, in seconds of processor time, while everybody else waits.
MOST_GAP_S = 0.25
#: What is answered later than this, or takes more memory, is ended.
MOST_CPU_S = 4
MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """What one request took of a server's process."""

    sent_bytes: int
    cpu_s: float
    peak_bytes: int
    #: The longest stretch of processor time in which the loop did nothing else.
    gap_s: float
    #: What was answered; 0: nothing, because the process was ended.
    status: int = 200


def complaints(costs: Sequence[Cost]) -> list[str]:
    """Return what is wrong with the costs of one request at ascending sizes, as sentences."""
    found = []
    for what, unit, of, floor in (
        ("processor time", "s", lambda cost: cost.cpu_s, LOOKED_AT_S),
        ("peak memory", "MB", lambda cost: cost.peak_bytes / 1e6, LOOKED_AT_BYTES / 1e6),
    ):
        found += _growth(what, unit, costs, of, floor)
    for cost in costs:
        if cost.status == 0:
            found.append(
                f"{cost.sent_bytes} bytes are not answered within {MOST_CPU_S} s of processor time or {MOST_BYTES} bytes"
            )
            continue
        if cost.cpu_s > FREE_S + S_PER_BYTE * cost.sent_bytes:
            found.append(f"{cost.sent_bytes} bytes take {cost.cpu_s:.2f} s")
        if cost.peak_bytes > FREE_BYTES + BYTES_PER_BYTE * cost.sent_bytes:
            found.append(f"{cost.sent_bytes} bytes take {cost.peak_bytes / 1e6:.0f} MB")
        if cost.gap_s > MOST_GAP_S:
            found.append(f"{cost.sent_bytes} bytes hold the loop for {cost.gap_s:.2f} s")
    return found


def _growth(what: str, unit: str, costs: Sequence[Cost], of: Callable[[Cost], float], floor: float) -> list[str]:
    answered = [cost for cost in costs if cost.status]
    if not answered:
        return []
    # What the smallest one takes is there without any of it, unless it is all that there is.
    for last in range(len(answered) - 1, DOUBLINGS - 1, -1):
        row = answered[last - DOUBLINGS : last + 1]
        values = [of(cost) for cost in row]
        # Sizes double; a size that a limit cut off does not.
        doubled = all(1.7 <= after.sent_bytes / max(1, before.sent_bytes) <= 2.3 for before, after in pairwise(row))
        ratios = [after / max(before, 1e-9) for before, after in pairwise(values)]
        if doubled and values[-1] > floor and values[0] > floor / 40 and min(ratios) > MOST_GROWTH:
            shown = ", ".join(f"{value:.3f}" for value in values)
            return [
                f"{what} grows {min(ratios):.1f} × at each doubling: {shown} {unit} for {row[0].sent_bytes} to "
                f"{row[-1].sent_bytes} bytes"
            ]
    return []
