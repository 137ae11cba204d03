"""A sweep's picture as PNG, by matplotlib: the same panels, marks and dots as in SVG."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

from sdk.plotting.png import literal, require_matplotlib
from sdk.plotting.svg import GREY, colour_of
from sdk.plotting.sweeps.panels import SettingPanel, SweepPicture

_MARKERS = "osD^"
#: Pixels to an inch, of which a picture has twice as many as SVG has.
_DPI = 100
#: Panels beside each other below the first, which is so many times as tall.
_BESIDE, _TALL = 3, 2.2
#: Inches: how wide all is, and how tall a panel below the first.
_WIDTH, _SMALL = 7.6, 1.75
#: About how wide the first panel is, and those below it, in pixels.
_PIXELS = (680, 180)


def png_of(picture: SweepPicture) -> bytes:
    """Return the picture as a file. Raises Unavailable without matplotlib."""
    require_matplotlib("write an SVG: -o FILE.svg")
    from matplotlib.figure import Figure

    small = -(-(len(picture.panels) - 1) // _BESIDE)
    figure = Figure(figsize=(_WIDTH, _SMALL * (_TALL + small) + 0.3), layout="constrained")
    grid = figure.add_gridspec(1 + small, _BESIDE, height_ratios=[_TALL, *([1.0] * small)])
    for at, panel in enumerate(picture.panels):
        where = grid[0, :] if at == 0 else grid[1 + (at - 1) // _BESIDE, (at - 1) % _BESIDE]
        _draw(picture, panel, figure.add_subplot(where), width=_PIXELS[at > 0])
    figure.suptitle("\n".join((literal(picture.title), *picture.legend)), x=0.01, ha="left", fontsize=9, color=GREY)
    if picture.names:
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], color=colour_of(at), marker=_MARKERS[at % 4], linestyle="", label=literal(name))
            for at, name in enumerate(picture.names)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9, labelcolor=GREY)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=2 * _DPI)
    return out.getvalue()


def _draw(picture: SweepPicture, panel: SettingPanel, axes: Any, *, width: int) -> None:
    scale = panel.scale
    axes.set_yscale("log" if scale.log else "linear")
    axes.set_ylim(scale.low, scale.high)
    axes.set_yticks(scale.ticks, [scale.label(tick) for tick in scale.ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlim(0, 1)
    ticks = picture.ticks_within(width, 7.0)
    axes.set_xticks([place for place, _ in ticks], [literal(label) for _, label in ticks])
    axes.set_xlabel(literal(picture.option), fontsize=9, color=GREY)
    axes.set_title(literal(panel.title), loc="left", fontsize=9, fontweight="bold", color=GREY)
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.tick_params(colors=GREY, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
    for at in range(max(1, len(picture.names))):
        _draw_series(picture, panel, axes, at)


def _draw_series(picture: SweepPicture, panel: SettingPanel, axes: Any, at: int) -> None:
    colour, kind = colour_of(at), _MARKERS[at % len(_MARKERS)]
    for dot in (dot for dot in panel.dots if dot.series == at):
        fill = "none" if dot.pruned else colour
        axes.plot([dot.x], [dot.y], "o", markersize=3.5, color=colour, markerfacecolor=fill, alpha=0.6)
    marks = sorted((mark for mark in panel.marks if mark.series == at), key=lambda mark: mark.x)
    connected = picture.lines and all(a.x < b.x for a, b in pairwise(marks))
    style = "-" if connected else ""
    axes.plot(
        [mark.x for mark in marks],
        [mark.y for mark in marks],
        color=colour,
        marker=kind,
        markersize=5,
        linestyle=style,
        clip_on=False,
    )
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            axes.errorbar([mark.x], [mark.y], [[mark.y - mark.low], [mark.high - mark.y]], color=colour, capsize=3)
        if mark.best:
            axes.plot([mark.x], [mark.y], "o", markersize=12, color=colour, fillstyle="none", clip_on=False)
