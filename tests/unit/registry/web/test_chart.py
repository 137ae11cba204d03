"""Where the points of a chart of scores are."""

from __future__ import annotations

import math

from registry.evaluations.version_scores import ScorePoint
from registry.web.adapters.chart import HEIGHT, WIDTH, ScoreChart


def point(number: int, value: float, low: float | None = None, high: float | None = None, versions: int = 1):
    return ScorePoint(number, versions, value, value, value, low, high)


def test_all_of_a_chart_is_within_it() -> None:
    points = [point(1, 3.0, 1.0, 5.0), point(40, 2.0), ScorePoint(80, 3, 2.5, 0.5, 9.0, None, None)]
    chart = ScoreChart.of(points, last=80, marked={40: "production"})
    assert chart is not None
    ys = [y for one in chart.points for y in (one.y, one.top, one.bottom) if y is not None]
    assert all(0 <= y <= HEIGHT for y in [*ys, *(tick.at for tick in chart.across)])
    assert all(0 <= x <= WIDTH for x in [*(one.x for one in chart.points), *(tick.at for tick in chart.along)])
    assert [one.mark for one in chart.points] == [None, "production", None]
    assert (chart.versions, chart.is_grouped, chart.least, chart.most) == (5, True, 0.5, 9.0)
    assert chart.along[0].text == "v1"
    assert chart.along[-1].text == "v80"


def test_better_scores_of_one_kind_are_drawn_higher_or_lower_as_they_are() -> None:
    chart = ScoreChart.of([point(1, 0.5), point(2, 0.25)], last=2, marked={})
    assert chart is not None
    assert chart.points[0].y < chart.points[1].y


def test_equal_scores_and_a_single_one_make_a_chart() -> None:
    for points in ([point(1, 0.0)], [point(1, 7.0), point(2, 7.0)], [point(1, 1e15), point(2, 1e15)]):
        chart = ScoreChart.of(points, last=len(points), marked={})
        assert chart is not None
        assert all(math.isfinite(one.y) for one in chart.points)
        assert 1 <= len(chart.across) < 12


def test_scores_that_are_no_numbers_make_none() -> None:
    assert ScoreChart.of([point(1, math.inf), point(2, math.nan)], last=2, marked={}) is None
    assert ScoreChart.of([], last=2, marked={}) is None
