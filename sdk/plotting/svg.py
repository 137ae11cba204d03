"""A picture as SVG: no script, no style sheet, nothing from elsewhere; a page's policy has nothing to refuse.

Colours are attributes, in tones that can be seen on white and on black. A page may set its own: the text takes the colour
of the root, `svg.curves`, and each curve that of its groups, `.curve-0`, `.curve-1` …
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from sdk.plotting.curves import middle, stretches
from sdk.plotting.picture import PLOT_WIDTH, Panel, Picture, Trace
from sdk.plotting.scales import Scale
from sdk.schemas.series import Buckets

#: Told apart also with each of the three colour blindnesses, and with a contrast of 3 on white and on #121212.
COLOURS = ("#1964a0", "#ff6200", "#688ffe", "#bf162b")
GREY = "#757575"
#: The next four curves have the same colours, and the next dashes.
DASHES = ("", "7 3", "2 3", "9 3 2 3")
#: How opaque the band of all steps is, and its edge.
BAND, BAND_AMONG_OTHERS = (0.2, 0.4), (0.1, 0.25)
_LEFT, _RIGHT, _ROW = 76, 24, 18
#: Room for the title of a panel, and for the labels of steps below it.
_ABOVE, _BELOW = 26, 22
#: About how wide a bold character of 12 pixels is, and where a name begins after the sample of its line.
_CHARACTER, _SAMPLE = 7.6, 32


def svg_of(picture: Picture) -> str:
    """Return the picture as a document."""
    legend = list(_legend(picture))
    top = 8 + _ROW * len(legend)
    height = top + sum(_ABOVE + panel.height + _BELOW for panel in picture.panels) + 22
    width = _LEFT + PLOT_WIDTH + _RIGHT
    label = f"{', '.join(panel.title for panel in picture.panels)} by step: {', '.join(picture.names)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curves" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{escape(label)}" color="{GREY}" fill="currentColor" font-family="system-ui, sans-serif"'
        ' font-size="12" stroke-linejoin="round" stroke-linecap="round">',
        f"<title>{escape(label)}</title>",
        *(part for row in legend for part in row),
    ]
    for panel in picture.panels:
        top += _ABOVE
        parts += _panel(panel, picture.steps, top, colours=_held_out_colours(picture))
        top += panel.height + _BELOW
    parts.append(text_at(_LEFT + PLOT_WIDTH / 2, top + 10, "step", "middle"))
    return "\n".join([*parts, "</svg>\n"])


def _held_out_colours(picture: Picture) -> int:
    """By how much the colour of held-out rows is further than their curve's: a single curve has two."""
    return 1 if len(picture.names) == 1 else 0


def colour_of(at: int) -> str:
    """The colour of a curve."""
    return COLOURS[at % len(COLOURS)]


def dashes_of(at: int) -> str:
    """The dashes of a curve, as SVG has them; "": none."""
    return DASHES[at // len(COLOURS) % len(DASHES)]


def _legend(picture: Picture) -> Iterator[list[str]]:
    """Yield the rows above the panels: the names, as many in a row as there is room for, and then what is drawn how."""
    widest = _SAMPLE + _CHARACTER * max(map(len, picture.names)) + 20
    columns = max(1, int(PLOT_WIDTH // widest))
    for row, begin in enumerate(range(0, len(picture.names), columns)):
        y = _ROW * (row + 1)
        yield [
            part
            for column, at in enumerate(range(begin, min(begin + columns, len(picture.names))))
            for part in _named(_LEFT + widest * column, y, at, picture.names[at])
        ]
    first = -(-len(picture.names) // columns) + 1
    yield from ([text_at(_LEFT, _ROW * row, line)] for row, line in enumerate(picture.legend, start=first))


def _named(x: float, y: float, at: int, name: str) -> Iterator[str]:
    yield f'<g class="curve-{at}" color="{colour_of(at)}">{_line(f"M{x:.1f} {y - 4}h24", at)}</g>'
    yield text_at(x + _SAMPLE, y, name, weight="600")


def _panel(panel: Panel, steps: Scale, top: float, *, colours: int) -> Iterator[str]:
    bottom = top + panel.height
    yield text_at(_LEFT, top - 8, panel.title, weight="600")
    for tick in panel.scale.ticks:
        y = _y(panel, top, tick)
        yield f'<path d="M{_LEFT} {y:.1f}h{PLOT_WIDTH}" stroke="currentColor" stroke-opacity="0.25"/>'
        label = panel.scale.label(tick)
        yield text_at(_LEFT - 8, y + 4, label, "end", size=12 if len(label) < 9 else 9)
    for tick in steps.ticks:
        x = _x(steps, tick)
        yield f'<path d="M{x:.1f} {bottom}v5" stroke="currentColor"/>'
        yield text_at(x, bottom + 18, f"{tick:.0f}", "middle")
    yield f'<path d="M{_LEFT} {bottom}h{PLOT_WIDTH}" stroke="currentColor"/>'
    for trace in panel.traces:
        yield f'<g class="curve-{trace.at}" color="{colour_of(trace.at)}">'
        yield from _training(trace, panel, steps, top, alone=len(panel.traces) == 1)
        yield "</g>"
    for trace in panel.traces:
        if trace.points is not None or trace.best_step is not None:
            yield f'<g class="curve-{trace.at + colours}" color="{colour_of(trace.at + colours)}">'
            yield from _held_out(trace, panel, steps, top)
            yield "</g>"


def _training(trace: Trace, panel: Panel, steps: Scale, top: float, *, alone: bool) -> Iterator[str]:
    if trace.raw is None or trace.means is None:
        return
    band = [_band(trace.raw, part, panel, steps, top) for part in stretches(trace.raw)]
    fill, edge = BAND if alone else BAND_AMONG_OTHERS
    yield f'<path class="band" d="{"".join(band)}" fill="currentColor" fill-opacity="{fill}" stroke="currentColor" stroke-opacity="{edge}"/>'
    yield _line(_through(trace.means, panel, steps, top), trace.at, "mean")
    for part in stretches(trace.means):
        if len(part) == 1:
            x, y = _x(steps, middle(trace.means, part[0])), _y(panel, top, trace.means.mean[part[0]])
            yield f'<circle class="mean" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'


def _band(found: Buckets, part: range, panel: Panel, steps: Scale, top: float) -> str:
    """The outline of what all values of some buckets are in: along their greatest, and back along their least."""
    there = [(_x(steps, middle(found, at)), _y(panel, top, found.max[at])) for at in part]
    back = [(_x(steps, middle(found, at)), _y(panel, top, found.min[at])) for at in reversed(part)]
    return f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in [*there, *back])}Z"


def _held_out(trace: Trace, panel: Panel, steps: Scale, top: float) -> Iterator[str]:
    found = trace.points
    if trace.best_step is not None:
        x = _x(steps, trace.best_step)
        yield f'<path class="best" d="M{x:.1f} {top}v{panel.height}" stroke="currentColor" stroke-dasharray="3 4"/>'
        if trace.best is not None:
            yield f'<circle class="best" cx="{x:.1f}" cy="{_y(panel, top, trace.best):.1f}" r="7" fill="none" stroke="currentColor" stroke-width="2"/>'
    if found is None:
        return
    places = [(_x(steps, middle(found, at)), _y(panel, top, found.mean[at])) for at in range(len(found.step))]
    path = f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)}"
    yield f'<path class="held-out" d="{path}" fill="none" stroke="currentColor" stroke-dasharray="4 3"/>'
    for at, (x, y) in enumerate(places):
        if found.min[at] != found.max[at]:
            low, high = _y(panel, top, found.min[at]), _y(panel, top, found.max[at])
            yield f'<path class="held-out" d="M{x:.1f} {low:.1f}L{x:.1f} {high:.1f}" stroke="currentColor"/>'
        yield marker(trace.at, x, y)


def marker(at: int, x: float, y: float) -> str:
    """A disc, a square, a diamond or a triangle: shapes tell curves apart without colours too."""
    if at % 4 == 0:
        return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    shape = ("m-3 -3h6v6h-6z", "m0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z", "m0 -4l4 7h-8z")[at % 4 - 1]
    return f'<path class="point" d="M{x:.1f} {y:.1f}{shape}"/>'


def _through(found: Buckets, panel: Panel, steps: Scale, top: float) -> str:
    return "".join(
        f"M{'L'.join(f'{_x(steps, middle(found, at)):.1f} {_y(panel, top, found.mean[at]):.1f}' for at in part)}"
        for part in stretches(found)
    )


def _line(path: str, at: int, name: str = "") -> str:
    dashes = f' stroke-dasharray="{dashes_of(at)}"' if dashes_of(at) else ""
    named = f' class="{name}"' if name else ""
    return f'<path{named} d="{path}" fill="none" stroke="currentColor" stroke-width="2"{dashes}/>'


def text_at(x: float, y: float, text: str, anchor: str = "start", *, weight: str = "", size: int = 12) -> str:
    """Return a text that begins, or ends, or has its middle at a place."""
    how = (f' font-weight="{weight}"' if weight else "") + (f' font-size="{size}"' if size != 12 else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{how}>{escape(text)}</text>'


def _x(steps: Scale, step: float) -> float:
    return _LEFT + PLOT_WIDTH * steps.place(step)


def _y(panel: Panel, top: float, value: float) -> float:
    return top + panel.height * (1 - panel.scale.place(value))
