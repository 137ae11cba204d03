"""Scores over versions as a picture, made on the server: where its points, ends and lines are, in the picture's own units.

>>> chart = ScoreChart.of([ScorePoint(1, 1, 1.0, 1.0, 1.0, 0.8, 1.2), ScorePoint(2, 1, 0.5, 0.5, 0.5, None, None)], last=2, marked={2: "production"})
>>> [(point.number, point.x, point.mark) for point in chart.points]
[(1, 58.0, None), (2, 704.0, 'production')]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry.evaluations.version_scores import ScorePoint

WIDTH, HEIGHT = 720, 200
#: Above the highest point there is room for the name of an alias.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 704.0, 24.0, 172.0
#: About how many lines there are across.
_LINES = 4
#: Up to so many versions, each has its number below the chart.
_ALL_NUMBERS = 15
#: How wide the least range is, as a share of the scores: of equal scores rounding isn't drawn.
_LEAST_SHARE = 1e-3


class Tick(NamedTuple):
    """A line with a number."""

    at: float
    text: str


class DrawnScores(NamedTuple):
    """A point."""

    number: int
    versions: int
    value: float
    low: float | None
    high: float | None
    x: float
    y: float
    #: Where the line through it ends: the interval's ends, or the least and the highest of several versions.
    top: float | None
    bottom: float | None
    #: An alias that names the version.
    mark: str | None


@dataclass(frozen=True)
class ScoreChart:
    """A chart of scores over the numbers of versions."""

    points: Sequence[DrawnScores]
    #: The line through the means, as SVG's `points`.
    line: str
    across: Sequence[Tick]
    along: Sequence[Tick]
    versions: int
    least: float
    most: float
    #: Whether points stand for several versions.
    is_grouped: bool

    @classmethod
    def of(cls, points: Sequence[ScorePoint], *, last: int, marked: Mapping[int, str]) -> ScoreChart | None:
        """Draw scores; `last` is the last number that was given. None without any that is a number."""
        points = [one for one in points if all(map(math.isfinite, (one.mean, one.least, one.most)))]
        if not points:
            return None
        least = min(one.least if one.low is None else min(one.low, one.least) for one in points)
        most = max(one.most if one.high is None else max(one.high, one.most) for one in points)
        floor, ceiling = _room(least, most)

        def x(number: int) -> float:
            return round(_LEFT if last <= 1 else _LEFT + (number - 1) / (last - 1) * (_RIGHT - _LEFT), 1)

        def y(value: float) -> float:
            return round(_BOTTOM - (value - floor) / (ceiling - floor) * (_BOTTOM - _TOP), 1)

        drawn = []
        for one in points:
            ends = (one.low, one.high) if one.versions == 1 else (one.least, one.most)
            top, bottom = (None if end is None else y(end) for end in reversed(ends))
            mark = marked.get(one.number) if one.versions == 1 else None
            drawn.append(
                DrawnScores(one.number, one.versions, one.mean, *ends, x(one.number), y(one.mean), top, bottom, mark)
            )
        return cls(
            points=drawn,
            line=" ".join(f"{one.x},{one.y}" for one in drawn),
            across=[Tick(y(value), f"{value:.4g}") for value in _steps(floor, ceiling)],
            along=[Tick(x(number), f"v{number}") for number in _numbers(last)],
            versions=sum(one.versions for one in points),
            least=min(one.least for one in points),
            most=max(one.most for one in points),
            is_grouped=any(one.versions > 1 for one in points),
        )


def _room(least: float, most: float) -> tuple[float, float]:
    """The range that is drawn: a little more than that of the scores."""
    spread = max(most - least, _LEAST_SHARE * max(abs(least), abs(most)), 1e-12)
    return least - 0.06 * spread, most + 0.06 * spread


def _steps(floor: float, ceiling: float) -> list[float]:
    """Round numbers within a range."""
    rough = (ceiling - floor) / _LINES
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((times * power for times in (1, 2, 5, 10) if times * power >= rough), 10 * power)
    first = math.ceil(floor / step)
    return [0.0 if place == 0 else place * step for place in range(first, math.floor(ceiling / step) + 1)]


def _numbers(last: int) -> list[int]:
    """The numbers of versions below the chart: the first, the last, and some between them."""
    if last <= _ALL_NUMBERS:
        return list(range(1, last + 1))
    parts = 6
    return sorted({1 + round(place * (last - 1) / parts) for place in range(parts + 1)})
