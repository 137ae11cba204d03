"""A picture as PNG, by matplotlib: the same panels, axes and buckets as in SVG."""

from __future__ import annotations

import io
from typing import Any

from sdk.errors import Unavailable
from sdk.plotting.curves import middle, stretches
from sdk.plotting.picture import PLOT_WIDTH, Panel, Picture, Trace
from sdk.plotting.svg import BAND, BAND_AMONG_OTHERS, GREY, colour_of, dashes_of
from sdk.schemas.series import Buckets

_MARKERS = "osD^"
#: Pixels to an inch, of which a picture has twice as many as SVG has.
_DPI = 100


def require_matplotlib(instead: str) -> None:
    """Raise Unavailable if matplotlib is missing; `instead` says what does without."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"a PNG needs matplotlib, which is not installed; run: pip install 'adapterctl[plot]', or {instead}"
        ) from error


def png_of(picture: Picture) -> bytes:
    """Return the picture as a file. Raises Unavailable without matplotlib."""
    require_matplotlib("write an SVG: -o FILE.svg")
    from matplotlib.figure import Figure

    heights = [panel.height for panel in picture.panels]
    rows = (len(picture.names) + 1) // 2 + 1
    height = (sum(heights) + 48 * len(heights) + 18 * rows + 30) / _DPI
    figure = Figure(figsize=((PLOT_WIDTH + 100) / _DPI, height), layout="constrained")
    every = figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for panel, axes in zip(picture.panels, every, strict=True):
        _draw(panel, axes, alone=len(picture.names) == 1)
        axes.set_xlim(picture.steps.low, picture.steps.high)
        axes.set_xticks(picture.steps.ticks, [f"{tick:.0f}" for tick in picture.steps.ticks])
        axes.tick_params(labelbottom=True)
    every[-1].set_xlabel("\n".join(("step", *picture.legend)), color=GREY, fontsize=9)
    lines = [
        _drawn(every[0], [], [], color=colour_of(at), linewidth=2, linestyle=_style(at), label=literal(name))
        for at, name in enumerate(picture.names)
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=2, frameon=False, fontsize=9, handlelength=3)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=2 * _DPI)
    return out.getvalue()


def _draw(panel: Panel, axes: Any, *, alone: bool) -> None:
    scale = panel.scale
    axes.set_yscale("log" if scale.log else "linear")
    axes.set_ylim(scale.low, scale.high)
    axes.set_yticks(scale.ticks, [scale.label(tick) for tick in scale.ticks])
    axes.set_yticks([], minor=True)
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold", color=GREY)
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.tick_params(colors=GREY, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
    for trace in panel.traces:
        _draw_training(trace, axes, BAND if len(panel.traces) == 1 else BAND_AMONG_OTHERS)
    for trace in panel.traces:
        _draw_held_out(trace, axes, colour_of(trace.at + alone))


def _draw_training(trace: Trace, axes: Any, opacity: tuple[float, float]) -> None:
    if trace.raw is None or trace.means is None:
        return
    colour, raw, means = colour_of(trace.at), trace.raw, trace.means
    for part in stretches(raw):
        steps, low, high = _columns(raw, part, raw.min, raw.max)
        axes.fill_between(steps, low, high, facecolor=colour, alpha=opacity[0], linewidth=0)
        for edge in (low, high):
            _drawn(axes, steps, edge, color=colour, alpha=opacity[1], linewidth=0.8)
    for part in stretches(means):
        steps, values = _columns(means, part, means.mean)
        dot = "o" if len(part) == 1 else ""
        _drawn(axes, steps, values, color=colour, linewidth=1.6, linestyle=_style(trace.at), marker=dot, markersize=4)


def _draw_held_out(trace: Trace, axes: Any, colour: str) -> None:
    if trace.best_step is not None:
        axes.axvline(trace.best_step, color=colour, linewidth=0.8, linestyle=(0, (3, 4)))
        if trace.best is not None:
            _drawn(
                axes,
                [trace.best_step],
                [trace.best],
                color=colour,
                marker="o",
                markersize=11,
                fillstyle="none",
                clip_on=False,
            )
    if (found := trace.points) is None:
        return
    steps, values, low, high = _columns(found, range(len(found.step)), found.mean, found.min, found.max)
    marker = _MARKERS[trace.at % len(_MARKERS)]
    _drawn(axes, steps, values, color=colour, linewidth=0.8, linestyle="--", marker=marker, markersize=5, clip_on=False)
    axes.vlines(steps, low, high, color=colour, linewidth=0.8)


def _columns(found: Buckets, part: range, *values: list[float]) -> tuple[list[float], ...]:
    return [middle(found, at) for at in part], *([one[at] for at in part] for one in values)


def _drawn(axes: Any, steps: list[float], values: list[float], **how: Any) -> Any:
    return axes.plot(steps, values, **how)[0]


def _style(at: int) -> Any:
    dashes = dashes_of(at)
    return (0, tuple(map(float, dashes.split()))) if dashes else "-"


def literal(text: str) -> str:
    """Text as it is: matplotlib would read a formula between two dollar signs, and leave out a label that begins with "_"."""
    return "\u200b" + text.replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")
