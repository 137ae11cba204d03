"""Options of a training that are lists of numbers or values of modules, written as one text for flags, records and digests.

>>> parse_numbers("8,0-3"), write_numbers([8, 3, 2, 1, 0])
([0, 1, 2, 3, 8], '0-3,8')
>>> parse_values("v_proj=4,down_proj=16"), write_values({"v_proj": 4.0, "down_proj": 16.5})
({'down_proj': 16.0, 'v_proj': 4.0}, 'down_proj=16.5,v_proj=4')
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from sdk.formats.peft_patterns import suffixes

#: No model has this many layers, and no training this many tokens of its own.
MOST_NUMBERS = 65_536
#: The most modules with a value of their own.
MOST_VALUES = 1024

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_VALUE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.]{0,199})=([0-9]{1,9}(?:\.[0-9]{1,17})?(?:e-?[0-9]{1,2})?)", re.ASCII)


def parse_numbers(text: str) -> list[int]:
    """Return the numbers of a text such as "0-3,8", sorted, once each. Raises ValueError."""
    return [number for first, last in _parse_ranges(text) for number in range(first, last + 1)]


def canonical_numbers(text: str) -> str:
    """Return a text with the same numbers, as `write_numbers` writes them. Raises ValueError."""
    return _write_ranges(_parse_ranges(text))


def write_numbers(numbers: Iterable[int]) -> str:
    """Return numbers as `parse_numbers` reads them: sorted, once each, neighbours as ranges."""
    return _write_ranges(_joined((number, number) for number in numbers))


def _parse_ranges(text: str) -> list[tuple[int, int]]:
    """Return the first and last number of each range of a text, sorted and apart from each other. Raises ValueError.

    It is the lengths of all ranges together that are bounded, so that those that overlap cost no more than others.
    """
    ranges = []
    left = MOST_NUMBERS
    for part in text.replace(" ", "").split(","):
        match = _RANGE.fullmatch(part)
        first, last = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
        if last < first:
            raise ValueError(f"{part[:40]!r} is neither a number nor a range of them; write them as '0-3,8'")
        left -= last + 1 - first
        if left < 0:
            raise ValueError(f"it has more than {MOST_NUMBERS} numbers; give fewer, and each once")
        ranges.append((first, last))
    return _joined(ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges sorted, those that overlap or touch as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def _write_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_values(text: str) -> dict[str, float]:
    """Return the value of each module of a text such as "q_proj=16,v_proj=4", by name, sorted. Raises ValueError."""
    found: dict[str, float] = {}
    parts = text.replace(" ", "").split(",")
    if len(parts) > MOST_VALUES:
        raise ValueError(f"it names more than {MOST_VALUES} modules; name fewer")
    for part in parts:
        match = _VALUE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part[:40]!r} is not a module and its value; write them as 'q_proj=16,v_proj=4'")
        if match[1] in found:
            raise ValueError(f"{match[1]} has two values; give it one")
        found[match[1]] = float(match[2])
    if same := same_module(found):
        raise ValueError(f"{same[0]} and {same[1]} mean the same module; name each module once")
    return dict(sorted(found.items()))


def same_module(names: Collection[str]) -> tuple[str, str] | None:
    """Return a name of several that is the end of another one after a dot, and that other one; None if there is none."""
    return next(
        ((end, name) for name in names for end in islice(suffixes(name), 1, None) if end in names),
        None,
    )


def write_values(values: Mapping[str, float]) -> str:
    """Return values of modules as `parse_values` reads them, sorted by name."""
    return ",".join(f"{name}={_shortest(value)}" for name, value in sorted(values.items()))


def _shortest(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and float(value).is_integer() else repr(float(value))
