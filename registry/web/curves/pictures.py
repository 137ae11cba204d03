"""A picture of curves for readers without scripts, made by what draws `adapterctl plot`."""

from __future__ import annotations

from registry.series.drawing import Drawing, DrawnLine, DrawnLooks
from sdk.plotting.picture import MOST_CURVES, Panel, Picture, Trace
from sdk.plotting.scales import scale_of, scale_of_steps, spans_widely
from sdk.plotting.svg import svg_of
from sdk.schemas.series import Buckets

_HEIGHTS = {"loss": 240}
_HEIGHT = 100
_EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"></svg>'


def picture_of_drawing(drawing: Drawing) -> str:
    """Return the first curves of a drawing as an SVG document."""
    curves = drawing.curves[:MOST_CURVES]
    if not curves:
        return _EMPTY
    ends = [*drawing.at, *(at for panel in drawing.panels for looks in panel.looks for at in looks.at)]
    steps = scale_of_steps(int(min(ends)), int(max(ends)) + (max(ends) % 1 > 0))
    panels = []
    for panel in drawing.panels:
        traces = [_trace(at, panel.lines, panel.looks, drawing) for at in range(len(curves))]
        there = tuple(trace for trace in traces if trace.raw is not None or trace.points is not None)
        values = [value for each in there for one in (each.raw, each.points) if one for value in (*one.min, *one.max)]
        log = panel.key == "loss" and spans_widely(values)
        height = _HEIGHTS.get(panel.key, _HEIGHT)
        scale = scale_of(values or [0.0], log=log, most=max(3, height // 35))
        panels.append(Panel(f"{panel.title}, logarithmic" if log else panel.title, height, scale, there))
    line = f"line: mean of up to {drawing.steps_a_mean} steps; band: all steps; points: held-out rows"
    left = len(drawing.curves) - len(curves)
    legend = (line, *([f"and {left} more curves, which the tables have"] if left else []))
    return svg_of(Picture(tuple(one.name[-40:] for one in curves), steps, tuple(panels), legend))


def _trace(at: int, lines: list[DrawnLine], looks: list[DrawnLooks], drawing: Drawing) -> Trace:
    line = next((one for one in lines if one.curve == at), None)
    scores = next((one for one in looks if one.curve == at), None)
    points = None if scores is None else _buckets(scores.at, scores.value, scores.value, scores.value)
    if line is None:
        return Trace(at, points=points)
    places, values = map(list, zip(*line.means(drawing.at), strict=True))
    means = _buckets(places, values, values, values)
    spans = list(line.spans(drawing.at))
    if not spans:
        return Trace(at, means, means, points)
    ends, low, high = map(list, zip(*spans, strict=True))
    return Trace(at, _buckets(ends, low, high, low), means, points)


def _buckets(at: list[float], low: list[float], high: list[float], mean: list[float]) -> Buckets:
    """Values at places of the axis, as the picture takes them."""
    places = [round(one) for one in at]
    return Buckets.model_construct(
        first=places, step=places, count=[1] * len(at), min=low, max=high, mean=mean, last=mean
    )
