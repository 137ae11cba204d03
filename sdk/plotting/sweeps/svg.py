"""A sweep's picture as SVG, in the colours of curves: no script, no style sheet, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from sdk.plotting.picture import PLOT_WIDTH
from sdk.plotting.svg import GREY, colour_of, marker, text_at
from sdk.plotting.sweeps.panels import Dot, Mark, SettingPanel, SweepPicture

#: Room left of an axis for its labels, above it for its title, and below it for the labels of values.
_LEFT, _RIGHT, _ABOVE, _BELOW, _ROW = 76, 24, 26, 40, 18
#: The heights of the first panel and of those below it, of which so many are beside each other.
_TALL, _SMALL, _BESIDE = 260, 110, 3
#: About how wide a character of 12 pixels is.
_CHARACTER = 6.8
_NAMED = 150


@dataclass(frozen=True)
class _Place:
    """Where a panel is, in pixels."""

    left: float
    top: float
    width: float
    height: float

    def x(self, place: float) -> float:
        return self.left + self.width * place

    def y(self, panel: SettingPanel, value: float) -> float:
        return self.top + self.height * (1 - panel.scale.place(value))


def svg_of(picture: SweepPicture) -> str:
    """Return the picture as a document."""
    heading = list(_heading(picture))
    top = 14 + _ROW * len(heading)
    places = list(_places(picture, top))
    height = places[-1].top + places[-1].height + _BELOW + 8
    width = _LEFT + PLOT_WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sweep" width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
        f' role="img" aria-label="{escape(picture.title)}" color="{GREY}" fill="currentColor" font-family="system-ui, sans-serif"'
        ' font-size="12" stroke-linejoin="round" stroke-linecap="round">',
        f"<title>{escape(picture.title)}</title>",
        *(part for row in heading for part in row),
    ]
    for panel, place in zip(picture.panels, places, strict=True):
        parts += _panel(picture, panel, place)
    return "\n".join([*parts, "</svg>\n"])


def _places(picture: SweepPicture, top: float) -> Iterator[_Place]:
    yield _Place(_LEFT, top + _ABOVE, PLOT_WIDTH, _TALL)
    top += _ABOVE + _TALL + _BELOW
    width = (PLOT_WIDTH - (_BESIDE - 1) * _LEFT) / _BESIDE
    for at in range(len(picture.panels) - 1):
        row, column = divmod(at, _BESIDE)
        yield _Place(_LEFT + column * (width + _LEFT), top + _ABOVE + row * (_ABOVE + _SMALL + _BELOW), width, _SMALL)


def _heading(picture: SweepPicture) -> Iterator[list[str]]:
    """Yield the rows above the panels: the title, the names of series, and what is drawn how."""
    yield [text_at(_LEFT, _ROW, picture.title, weight="600")]
    beside = max(1, PLOT_WIDTH // max(_NAMED, int(24 + _CHARACTER * max(map(len, picture.names), default=0))))
    row = 2
    for begin in range(0, len(picture.names), beside):
        yield [
            part
            for column, at in enumerate(range(begin, min(begin + beside, len(picture.names))))
            for part in _named(_LEFT + PLOT_WIDTH / beside * column, _ROW * row, at, picture.names[at])
        ]
        row += 1
    for line in picture.legend:
        yield [text_at(_LEFT, _ROW * row, line)]
        row += 1


def _named(x: float, y: float, at: int, name: str) -> Iterator[str]:
    yield f'<g class="series-{at}" color="{colour_of(at)}">{marker(at, x + 6, y - 4)}</g>'
    yield text_at(x + 16, y, name)


def _panel(picture: SweepPicture, panel: SettingPanel, place: _Place) -> Iterator[str]:
    bottom = place.top + place.height
    yield text_at(place.left, place.top - 8, panel.title, weight="600")
    for tick in panel.scale.ticks:
        y = place.y(panel, tick)
        yield f'<path d="M{place.left:.1f} {y:.1f}h{place.width:.1f}" stroke="currentColor" stroke-opacity="0.25"/>'
        yield text_at(place.left - 8, y + 4, panel.scale.label(tick), "end", size=12 if place.height == _TALL else 10)
    for across, label in picture.ticks_within(place.width, _CHARACTER):
        yield f'<path d="M{place.x(across):.1f} {bottom:.1f}v5" stroke="currentColor"/>'
        yield text_at(place.x(across), bottom + 18, label, "middle")
    yield f'<path d="M{place.left:.1f} {bottom:.1f}h{place.width:.1f}" stroke="currentColor"/>'
    yield text_at(place.left + place.width / 2, bottom + 33, picture.option, "middle")
    for at in range(max(1, len(picture.names))):
        marks = [mark for mark in panel.marks if mark.series == at]
        dots = [dot for dot in panel.dots if dot.series == at]
        if marks or dots:
            yield f'<g class="series-{at}" color="{colour_of(at)}">'
            yield from _series(panel, place, at, marks, dots, lines=picture.lines)
            yield "</g>"


def _series(
    panel: SettingPanel, place: _Place, at: int, marks: list[Mark], dots: list[Dot], *, lines: bool
) -> Iterator[str]:
    ordered = sorted(marks, key=lambda mark: mark.x)
    if lines and all(a.x < b.x for a, b in pairwise(ordered)):
        path = "L".join(f"{place.x(mark.x):.1f} {place.y(panel, mark.y):.1f}" for mark in ordered)
        yield f'<path class="line" d="M{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    for dot in dots:
        x, y = place.x(dot.x), place.y(panel, dot.y)
        fill = 'fill="none" stroke="currentColor"' if dot.pruned else 'fill-opacity="0.55"'
        yield f'<circle class="{"pruned" if dot.pruned else "seed"}" cx="{x:.1f}" cy="{y:.1f}" r="2.5" {fill}/>'
    for mark in marks:
        x, y = place.x(mark.x), place.y(panel, mark.y)
        if mark.low is not None and mark.high is not None:
            low, high = place.y(panel, mark.low), place.y(panel, mark.high)
            ends = f"M{x:.1f} {low:.1f}L{x:.1f} {high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
            yield f'<path class="error" d="{ends}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        yield marker(at, x, y)
        if mark.best:
            yield f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="currentColor" stroke-width="2"/>'
