"""Curves as tables: what a picture shows, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from registry.series.drawing import Drawing, DrawnLine

#: How many curves have their tables on one page; each has some hundreds of rows.
MOST_TABLED = 16


class Table(NamedTuple):
    """One series of one training."""

    title: str
    #: Step or seconds, mean, least and greatest value; of held-out rows, step and score.
    columns: tuple[str, ...]
    rows: list[tuple[float | None, ...]]


def tables_of(drawing: Drawing) -> list[tuple[str, list[Table]]]:
    """Return the name and the tables of each of the first curves."""
    return [(one.name, list(_tables(drawing, at))) for at, one in enumerate(drawing.curves[:MOST_TABLED])]


def _tables(drawing: Drawing, curve: int) -> Iterator[Table]:
    by = "step" if drawing.by == "step" else "seconds"
    for panel in drawing.panels:
        title = f"{panel.title}, {panel.unit}" if panel.unit else panel.title
        for line in panel.lines:
            if line.curve == curve:
                columns = (by, "mean", "least", "greatest") if line.low else (by, "value")
                yield Table(title, columns, list(_rows(line, drawing.at)))
        for looks in panel.looks:
            if looks.curve == curve:
                title = f"held-out {panel.title.removeprefix('held-out ')}"
                yield Table(title, ("step", "value"), list(zip(map(float, looks.step), looks.value, strict=True)))


def _rows(line: DrawnLine, at: list[float]) -> Iterator[tuple[float | None, ...]]:
    """Yield what each column has; a mean is at the middle one of those that it is over."""
    means = dict(line.means(at))
    if not line.low:
        yield from means.items()
    for place, low, high in line.spans(at):
        yield place, means.get(place), low, high
