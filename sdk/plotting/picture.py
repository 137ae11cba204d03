"""What both formats draw: panels below each other, with their axes, and the buckets of each curve in them.

The width is counted in pixels, because each is the room for one bucket: all that lies below is that bucket's least and
greatest value, so that a spike of one step is as tall as it was.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdk.errors import InvalidInput, NotFound
from sdk.plotting.curves import HELD_OUT, LOSS, NORM, RATE, Curve, reduced
from sdk.plotting.scales import Scale, scale_of, scale_of_steps, spans_widely
from sdk.schemas.series import Buckets

#: Pixels between the two ends of the axis of steps.
PLOT_WIDTH = 660
#: Of a series with more values, the mean line is over so many buckets, and the band shows what they hide.
_MEANS = 80
#: How many curves colours and dashes tell apart.
MOST_CURVES = 16
#: Characters of a name: its last ones, which have the version.
_NAME = 40


@dataclass(frozen=True)
class Trace:
    """One curve in one panel."""

    #: Its place among all curves.
    at: int
    #: At most one bucket a pixel, and the buckets that the line of means connects.
    raw: Buckets | None = None
    means: Buckets | None = None
    #: The scores of held-out rows.
    points: Buckets | None = None
    best_step: int | None = None

    @property
    def best(self) -> float | None:
        """The score at the best step, if it is among the points."""
        found = self.points
        if found is None or self.best_step is None:
            return None
        spans = zip(found.first, found.step, found.min, strict=True)
        return next((least for first, last, least in spans if first <= self.best_step <= last), None)


@dataclass(frozen=True)
class Panel:
    """One axis of values, and the curves over it."""

    title: str
    height: int
    scale: Scale
    traces: tuple[Trace, ...]


@dataclass(frozen=True)
class Picture:
    """All that is drawn."""

    names: tuple[str, ...]
    steps: Scale
    panels: tuple[Panel, ...]
    #: What line, band, points and ring are, in lines of at most 96 characters.
    legend: tuple[str, ...]


def picture_of(curves: Sequence[Curve]) -> Picture:
    """Lay out curves over the same steps. Raises InvalidInput for too many, NotFound if one has no points."""
    if not 0 < len(curves) <= MOST_CURVES:
        raise InvalidInput(
            f"{len(curves)} curves can't be told apart; draw at least 1 and at most {MOST_CURVES} at once"
        )
    for curve in curves:
        if curve.is_empty:
            raise NotFound(f"{curve.name} has no points to draw; only trainings have, from their first step on")
    found = [found for curve in curves for key in (LOSS, RATE, NORM, HELD_OUT) if (found := curve[key]) is not None]
    steps = scale_of_steps(min(one.first[0] for one in found), max(one.step[-1] for one in found))
    panels = tuple(panel for panel in _panels(curves) if panel.traces)
    legend = textwrap.wrap(" · ".join(_legend(curves, panels)), 96)
    return Picture(tuple(_name(curve.name) for curve in curves), steps, panels, tuple(legend))


def _panels(curves: Sequence[Curve]) -> Iterator[Panel]:
    units = {curve.loss_unit for curve in curves}
    unit = units.pop() if len(units) == 1 else ""
    losses = [_loss_trace(at, curve) for at, curve in enumerate(curves)]
    yield _panel(f"loss, {unit}" if unit else "loss", 240, [one for one in losses if one.raw or one.points])
    for title, height, key in (("learning rate", 80, RATE), ("gradient norm", 110, NORM)):
        averaged = key is NORM
        found = [(at, one) for at, curve in enumerate(curves) if (one := curve[key]) is not None]
        yield _panel(title, height, [_trace(at, one, averaged=averaged) for at, one in found])


def _loss_trace(at: int, curve: Curve) -> Trace:
    trained, held_out = curve[LOSS], curve[HELD_OUT]
    line = Trace(at) if trained is None else _trace(at, trained)
    points = None if held_out is None else reduced(held_out, PLOT_WIDTH)
    return Trace(at, line.raw, line.means, points, curve.best_step)


def _trace(at: int, found: Buckets, *, averaged: bool = True) -> Trace:
    raw = reduced(found, PLOT_WIDTH)
    return Trace(at, raw, reduced(found, _MEANS) if averaged and len(raw.step) >= 2 * _MEANS else raw)


def _panel(title: str, height: int, traces: Sequence[Trace]) -> Panel:
    found = [one for trace in traces for one in (trace.raw, trace.points) if one is not None]
    values = [value for one in found for value in (*one.min, *one.max)] or [0.0]
    most = max(3, height // 35)
    # A rate begins at or near 0 by design, which says nothing about how it should be read.
    log = title != "learning rate" and spans_widely(values)
    return Panel(f"{title}, logarithmic" if log else title, height, scale_of(values, log=log, most=most), tuple(traces))


def _legend(curves: Sequence[Curve], panels: Sequence[Panel]) -> Iterator[str]:
    traces = [trace for panel in panels for trace in panel.traces]
    averaged = max((sum(means.count) / len(means.count) for trace in traces if (means := trace.means)), default=0)
    if averaged > 1:
        yield f"line: mean of up to about {max(2, round(averaged))} steps; band: all steps"
    elif averaged:
        yield "line: training, each step"
    if any(trace.points for trace in traces):
        yield "points: held-out rows"
    if any(curve.best_step is not None for curve in curves):
        kept = all(curve.kept for curve in curves if curve.best_step is not None)
        at = f" (step {curves[0].best_step})" if len(curves) == 1 else ""
        yield f"ring: best held-out loss{at}{', which was kept' if kept else ''}"


def _name(text: str) -> str:
    """Return a name as plain text, without characters that change what is around them, and not longer than there is room."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= _NAME else f"…{shown[1 - _NAME :]}"
