"""Options of a training that are lists of numbers or values of modules, written as one text for flags, records and digests.

>>> parse_numbers("8,0-3"), write_numbers([8, 3, 2, 1, 0])
([0, 1, 2, 3, 8], '0-3,8')
>>> parse_values("v_proj=4,down_proj=16"), write_values({"v_proj": 4.0, "down_proj": 16.5})
({'down_proj': 16.0, 'v_proj': 4.0}, 'down_proj=16.5,v_proj=4')
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

#: No model has this many layers, and no training this many tokens of its own.
MOST_NUMBERS = 65_536
#: The most modules with a value of their own.
MOST_VALUES = 1024

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_VALUE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.]{0,199})=([0-9]{1,9}(?:\.[0-9]{1,17})?(?:e-?[0-9]{1,2})?)", re.ASCII)


def parse_numbers(text: str) -> list[int]:
    """Return the numbers of a text such as "0-3,8", sorted. Raises ValueError."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = _RANGE.fullmatch(part)
        first, last = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
        if last < first:
            raise ValueError(f"{part[:40]!r} is neither a number nor a range of them; write them as '0-3,8'")
        if last - first >= MOST_NUMBERS or len(found) > MOST_NUMBERS:
            raise ValueError(f"it has more than {MOST_NUMBERS} numbers; give fewer")
        found.update(range(first, last + 1))
    return sorted(found)


def write_numbers(numbers: Iterable[int]) -> str:
    """Return numbers as `parse_numbers` reads them: sorted, once each, neighbours as ranges."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_values(text: str) -> dict[str, float]:
    """Return the value of each module of a text such as "q_proj=16,v_proj=4", by name, sorted. Raises ValueError."""
    found: dict[str, float] = {}
    for part in text.replace(" ", "").split(","):
        match = _VALUE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part[:40]!r} is no module and its value; write them as 'q_proj=16,v_proj=4'")
        if match[1] in found:
            raise ValueError(f"{match[1]} has two values; give it one")
        found[match[1]] = float(match[2])
    if len(found) > MOST_VALUES:
        raise ValueError(f"it names more than {MOST_VALUES} modules; name fewer")
    for name in found:
        if other := next((longer for longer in found if longer.endswith(f".{name}")), None):
            raise ValueError(f"{name} and {other} mean the same module; name each module once")
    return dict(sorted(found.items()))


def write_values(values: Mapping[str, float]) -> str:
    """Return values of modules as `parse_values` reads them, sorted by name."""
    return ",".join(f"{name}={_shortest(value)}" for name, value in sorted(values.items()))


def _shortest(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and float(value).is_integer() else repr(float(value))
