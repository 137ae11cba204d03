"""The settings of a grid: every value of each option with every value of the others.

>>> grid({"rank": Values(values=[1, 4]), "lr": Range(low=1e-4, high=1e-3, log=True, count=3)})[:4]
[{'rank': 1, 'lr': 0.0001}, {'rank': 1, 'lr': 0.000316}, {'rank': 1, 'lr': 0.001}, {'rank': 4, 'lr': 0.0001}]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise, product

from sdk.schemas.sweep_axes import MOST_MEMBERS, Axis, Range, Setting, Values
from sdk.schemas.wire import JsonScalar

#: Values of a log range have so many significant digits; others are rounded to so many powers of ten below the width of theirs.
_DIGITS = 3


def grid(settings: Mapping[str, Axis]) -> list[Setting]:
    """Return all settings in order, the first option changing slowest.

    Raises ValueError for a range that doesn't say which values it has, or has one twice, and for more than `MOST_MEMBERS`
    settings.
    """
    values = {name: _values(name, axis) for name, axis in settings.items()}
    count = math.prod(map(len, values.values()))
    if count > MOST_MEMBERS:
        sizes = " · ".join(f"{len(some)} of {name}" for name, some in values.items())
        raise ValueError(
            f"the grid has {count:,} settings ({sizes}), and a sweep at most {MOST_MEMBERS:,}; give fewer values, or sample"
            " random or tpe with trials"
        )
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def at(axis: Range, share: float) -> int | float:
    """Return the value that lies a share from 0 to 1 of the way from the low end to the high one, rounded.

    In a log range it has three significant digits, else it is rounded to a thousandth of the width or less; a whole one is a whole
    number. The ends are as they were given, and nothing lies outside.
    """
    if share in (0, 1):
        end = axis.high if share else axis.low
        return int(end) if axis.whole else end
    return readable(axis, between(axis.low, axis.high, share, log=axis.log))


def between(low: float, high: float, share: float, *, log: bool) -> float:
    """Return what lies a share of the way from one number to another; with `log` the way is that of equal ratios."""
    return math.exp(between(math.log(low), math.log(high), share, log=False)) if log else low + (high - low) * share


def readable(axis: Range, value: float) -> int | float:
    """Return a value within a range, rounded as `at` says."""
    if axis.whole:
        return int(min(max(round(value), axis.low), axis.high))
    if axis.log:
        rounded = float(f"{value:.{_DIGITS - 1}e}")
    else:
        rounded = round(value, _DIGITS - math.floor(math.log10(axis.high - axis.low)))
    return min(max(rounded, axis.low), axis.high)


def _values(name: str, axis: Axis) -> list[JsonScalar]:
    if isinstance(axis, Values):
        return axis.values
    ends = (int(end) if end.is_integer() else end for end in (axis.low, axis.high))
    shown = f"{'..'.join(map(str, ends))}{':log' if axis.log else ''}"
    count = axis.count
    if count is None and axis.whole and not axis.log:
        count = round(axis.high - axis.low) + 1
    if count is None:
        raise ValueError(
            f"{name}: a grid needs to know how many values {shown} has; write their number after it, as {shown}[5], or sample"
            " random or tpe"
        )
    if count > MOST_MEMBERS:
        raise ValueError(f"{name}: {shown} has {count:,} values; write fewer after it, as {shown}[5]")
    found: list[JsonScalar] = [at(axis, step / (count - 1)) for step in range(count)]
    for one, other in pairwise(found):
        if one == other:
            raise ValueError(f"{name}: {shown} in {count} values has {one} twice once they are rounded; ask for fewer")
    return found
