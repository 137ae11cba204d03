"""Axes: how values become places between 0 and 1, and which of them have a label.

>>> scale = scale_of([1.0, 3.5])
>>> scale.ticks, [scale.label(tick) for tick in scale.ticks]
((1.0, 1.5, 2.0, 2.5, 3.0, 3.5), ['1.0', '1.5', '2.0', '2.5', '3.0', '3.5'])
>>> wide = scale_of([0.002, 40.0], log=True)
>>> [wide.label(tick) for tick in wide.ticks]
['0.01', '0.1', '1', '10']
>>> round(wide.place(0.002), 3), round(wide.place(40.0), 3)
(0.04, 0.96)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

#: A loss that spans more than this is drawn on a logarithmic scale.
_WIDE = 100.0
#: Free room above and below the values, as a share of what they span.
_MARGIN = 0.04
#: Below this share of its values, what they span is rounding: they are stored with 24 binary digits.
_ROUNDING = 1e-7
_LARGEST = sys.float_info.max
_STEPS = ("1", "2", "2.5", "5")


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low` to `high`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    #: Digits after the point that tell the ticks of a linear axis apart; -3: thousands do.
    digits: int = 0

    def place(self, value: float) -> float:
        """Return where a value is: 0 is `low`, 1 is `high`."""
        if self.log:
            low, high, at = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            # The largest numbers are too far from each other to be subtracted.
            low, high, at = self.low / 4, self.high / 4, value / 4
        return (at - low) / (high - low)

    def label(self, tick: float) -> str:
        """Return the text of a tick."""
        largest = max(abs(one) for one in self.ticks)
        if self.log and 1e-4 < tick < 1e6:
            return f"{tick:g}"
        if not self.log and largest < 1e6 and self.digits <= 3:
            return f"{tick:.{max(0, self.digits)}f}"
        places = 0 if self.log or tick == 0 else self.digits + math.floor(math.log10(abs(tick)))
        mantissa, _, exponent = f"{tick:.{min(max(places, 0), 15)}e}".partition("e")
        return "0" if tick == 0 else f"{mantissa}e{int(exponent)}"


def spans_widely(values: Iterable[float]) -> bool:
    """Whether values are better seen on a logarithmic scale: they are positive, and the largest is more than 100 times the
    smallest.
    """
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) / min(found) > _WIDE


def scale_of_steps(first: int, last: int, most: int = 8) -> Scale:
    """Return an axis of steps, from the first to the last without a margin, with whole numbers as ticks."""
    if first == last:
        return Scale(first - 1, last + 1, (first,))
    ticks = _linear(first, last, most).ticks
    return Scale(
        first, last, tuple(tick for tick in ticks if first <= tick <= last and tick == int(tick)) or (first, last)
    )


def scale_of(values: Iterable[float], *, log: bool = False, most: int = 6) -> Scale:
    """Return an axis over all values, with at most about `most` ticks at round numbers."""
    found = list(values)
    return _logarithmic(min(found), max(found), most) if log else _linear(min(found), max(found), most)


def _logarithmic(low: float, high: float, most: int) -> Scale:
    a, b = math.log10(low), math.log10(high)
    margin = _MARGIN * (b - a) / (1 - 2 * _MARGIN)
    every = max(1, math.ceil((b - a) / most))
    powers = range(math.ceil(a), math.floor(b) + 1)
    ticks = tuple(float(f"1e{power}") for power in powers if power % every == 0 and power > -308)
    if len(ticks) < 3:
        ticks = tuple(
            tick for power in range(math.floor(a), math.ceil(b)) for tick in _decade(power) if low <= tick <= high
        )
    # Beyond these there is no room for a margin.
    return Scale(10 ** max(a - margin, -323.0), 10 ** min(b + margin, 308.0), ticks, log=True)


def _decade(power: int) -> tuple[float, float, float]:
    return float(f"1e{power}"), float(f"2e{power}"), float(f"5e{power}")


def _linear(low: float, high: float, most: int) -> Scale:
    largest = max(abs(low), abs(high))
    if high / 2 - low / 2 <= _ROUNDING * largest / 2:
        half = largest / 10 or 1.0
        low, high = max(low - half, -_LARGEST), min(high + half, _LARGEST)
    quarter = high / 4 - low / 4
    margin = 4 * _MARGIN * quarter
    low, high = max(low - margin, -_LARGEST), min(high + margin, _LARGEST)
    power = math.floor(math.log10(4 * (quarter / most))) if quarter > 0 else -323
    if power < -300:
        return Scale(low, high, (low, high))
    steps = [(float(f"{one}e{at}"), len(one.partition(".")[2]) - at) for at in (power, power + 1) for one in _STEPS]
    axes = (Scale(low, high, _multiples(step, low, high), digits=digits) for step, digits in steps)
    return next(axis for axis in axes if len(axis.ticks) <= most)


def _multiples(step: float, low: float, high: float) -> tuple[float, ...]:
    return tuple(place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1))
