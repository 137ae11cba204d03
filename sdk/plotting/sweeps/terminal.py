"""A small picture of a sweep in characters: the score of each setting, with its error, by the option that varies.

>>> from sdk.plotting.scales import Scale
>>> from sdk.plotting.sweeps.panels import Mark, SettingPanel
>>> marks = (Mark(0, 0.0, 3.0), Mark(0, 0.5, 1.0, best=True), Mark(0, 1.0, 2.0))
>>> picture = SweepPicture("", "rank", ((0.0, "1"), (0.5, "4"), (1.0, "16")), (), False, (SettingPanel("loss", Scale(1, 3, ()), marks),), ())
>>> for row in rows_of(picture, width=24, height=4, plain=True):
...     print("".join(text for text, _ in row))
3 |o
  |
  |                    o
1 |          @
   1         4        16
   o loss by rank   @ best
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sdk.plotting.canvas import SIGNS, Canvas, Role, Row
from sdk.plotting.scales import Scale
from sdk.plotting.sweeps.panels import Mark, SweepPicture


def rows_of(picture: SweepPicture, *, width: int, height: int = 8, plain: bool = False) -> list[Row]:
    """Return the rows of the panel of the score, each not wider than `width` columns, with the values below."""
    panel = picture.panels[0]
    ends = [end for mark in panel.marks for end in (mark.y, mark.low, mark.high) if end is not None]
    ends += [dot.y for dot in panel.dots]
    scale = Scale(min(ends), max(ends), (), log=panel.scale.log) if min(ends) < max(ends) else panel.scale
    labels = [f"{scale.high:.4g}", *[""] * (height - 2), f"{scale.low:.4g}"]
    room = max(map(len, labels))
    columns = max(1, width - room - 2)
    canvas = Canvas(columns, height, plain=plain)
    for at in range(max(1, len(picture.names))):
        _draw(canvas, [mark for mark in panel.marks if mark.series == at], scale, lines=picture.lines and not plain)
    for dot in panel.dots:
        canvas.line(dot.x, scale.place(dot.y), dot.x, scale.place(dot.y))
    # The best is drawn last, so that no other mark hides it.
    for mark in sorted(panel.marks, key=lambda mark: mark.best):
        canvas.sign(mark.x, scale.place(mark.y), "best" if mark.best else "held-out")
    side = SIGNS["axis"][plain]
    rows: list[Row] = [
        [(f"{label:>{room}} {side}", "axis"), *row] for label, row in zip(labels, canvas.rows(), strict=True)
    ]
    margin = " " * (room + 2)
    rows.append([(margin + _values(picture, columns), "axis")])
    rows.append([(margin, "axis"), *_legend(picture, plain=plain)])
    return rows


def _draw(canvas: Canvas, marks: list[Mark], scale: Scale, *, lines: bool) -> None:
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            canvas.line(mark.x, scale.place(mark.low), mark.x, scale.place(mark.high))
    if lines:
        for a, b in pairwise(sorted(marks, key=lambda mark: mark.x)):
            canvas.line(a.x, scale.place(a.y), b.x, scale.place(b.y))


def _values(picture: SweepPicture, columns: int) -> str:
    """Return the labels of values, each with its middle below its place where there is room."""
    line = ""
    for place, label in picture.ticks_within(columns, 1.0):
        begin = min(max(0, round(place * (columns - 1)) - (len(label) - 1) // 2), columns - len(label))
        if begin >= len(line) + bool(line):
            line = f"{line:<{begin}}{label}"
    return line


def _legend(picture: SweepPicture, *, plain: bool) -> Iterator[tuple[str, Role]]:
    panel = picture.panels[0]
    yield f"{SIGNS['held-out'][plain]} ", "held-out"
    yield f"{panel.title} by {picture.option}", "axis"
    if any(mark.best for mark in panel.marks):
        yield f"   {SIGNS['best'][plain]} ", "best"
        yield "best", "axis"
    if any(mark.low is not None for mark in panel.marks):
        yield f"   {'*' if plain else '│'} ", "loss"
        yield "one standard error either way", "axis"
