"""What each format draws of a sweep: one option from left to right, its score above, and what it costs in smaller panels.

A second option has a series for each of its values, or for each of four ranges of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sdk.errors import NotFound
from sdk.plotting.scales import Scale, scale_of, spans_widely
from sdk.plotting.sweeps.settings import COSTS, Cost, SettingRow, name_of, rows_of, scored_by, shown
from sdk.schemas.sweep_axes import Setting
from sdk.schemas.sweeps import SweepView
from sdk.schemas.wire import JsonScalar

#: Numbers whose largest is so many times their smallest are at equal distances where their ratios are equal.
_BY_RATIO = 8
#: The first and last value are so far from the ends, as a share of the width.
_MARGIN = 0.06
#: With more values of the options that don't go from left to right, each series has a range of them.
_MOST_SERIES, _RANGES = 6, 4
#: How far the marks of neighbouring series are moved apart, and those of members from their setting's.
_APART, _ASIDE = 0.012, 0.01
#: Characters of a name.
_NAME = 40


@dataclass(frozen=True)
class Mark:
    """The score of a setting, or another number of it."""

    series: int
    #: Between 0 and 1.
    x: float
    y: float
    #: The ends of its error bar.
    low: float | None = None
    high: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Dot:
    """The score of one member."""

    series: int
    x: float
    y: float
    pruned: bool


@dataclass(frozen=True)
class SettingPanel:
    """One axis of values."""

    title: str
    scale: Scale
    marks: tuple[Mark, ...]
    dots: tuple[Dot, ...] = ()


@dataclass(frozen=True)
class SweepPicture:
    """All that is drawn."""

    title: str
    #: The option from left to right, and where its values are, between 0 and 1.
    option: str
    ticks: tuple[tuple[float, str], ...]
    #: The names of the series; none, if there is but one.
    names: tuple[str, ...]
    #: Whether marks of a series are connected: those of a grid.
    lines: bool
    #: The first is that of the score.
    panels: tuple[SettingPanel, ...]
    legend: tuple[str, ...]

    def ticks_within(self, width: float, character: float) -> list[tuple[float, str]]:
        """Return the ticks whose labels don't meet, where the width and that of a character are given in the same unit."""
        kept: list[tuple[float, str]] = []
        for place, label in self.ticks:
            if not kept or (place - kept[-1][0]) * width > (len(kept[-1][1]) + len(label) + 2) / 2 * character:
                kept.append((place, label))
        return kept


def picture_of(view: SweepView) -> SweepPicture:
    """Lay out a sweep. Raises NotFound if none of its members has a score yet."""
    rows = [row for row in rows_of(view) if row.score is not None or _scores(row, view.request.choose)]
    if not rows:
        raise NotFound(
            f"no member of sweep:{view.id} has a score to draw yet; see: adapterctl sweep show {view.id}", param="of"
        )
    option = _across(rows)
    place, ticks = _places([row.setting.get(option) for row in rows])
    series, names = _series(rows, [name for name in rows[0].setting if name != option])
    middle = (max(series) + min(series)) / 2
    xs = [place(row.setting.get(option)) + _APART * (at - middle) for row, at in zip(rows, series, strict=True)]

    def panel(title: str, value: Callable[[SettingRow], float | None]) -> SettingPanel | None:
        marks = [
            Mark(at, x, found, best=row.outcome == "best")
            for row, x, at in zip(rows, xs, series, strict=True)
            if (found := value(row)) is not None
        ]
        return SettingPanel(title, _scale([mark.y for mark in marks], most=3), tuple(marks)) if marks else None

    choose = view.request.choose
    others = [panel(title, value) for title, value in _others(rows, choose)]
    main = _main(name_of(choose), rows, xs, series, choose)
    return SweepPicture(
        title=f"{_plain(view.adapter)}: {name_of(choose)} by {', '.join(rows[0].setting)}",
        option=option,
        ticks=ticks,
        names=names,
        lines=view.request.sample == "grid",
        panels=(main, *(one for one in others if one is not None)),
        legend=tuple(textwrap.wrap(" · ".join(_legend(main)), 96)),
    )


def _main(
    title: str, rows: Sequence[SettingRow], xs: Sequence[float], series: Sequence[int], choose: str
) -> SettingPanel:
    marks, dots = [], []
    for row, x, at in zip(rows, xs, series, strict=True):
        scores = _scores(row, choose)
        if row.score is not None:
            error = row.standard_error
            low, high = (None, None) if error is None else (row.score - error, row.score + error)
            marks.append(Mark(at, x, row.score, low, high, best=row.outcome == "best"))
        if row.score is None or len(scores) > 1:
            dots += [Dot(at, x - _ASIDE, y, pruned=row.outcome == "pruned") for y in scores]
    ends = [end for mark in marks for end in (mark.low, mark.high) if end is not None]
    return SettingPanel(
        title, _scale([*ends, *(mark.y for mark in marks), *(dot.y for dot in dots)]), tuple(marks), tuple(dots)
    )


def _metric(name: str, row: SettingRow) -> float | None:
    return row.mean(name)


def _scores(row: SettingRow, choose: str) -> list[float]:
    return [member.metrics[choose] for member in row.members if choose in member.metrics]


def _scale(values: Sequence[float], *, most: int = 6) -> Scale:
    return scale_of(values, log=spans_widely(values), most=most)


def _across(rows: Sequence[SettingRow]) -> str:
    """Return the option that goes from left to right: the first that is a number, or else the first."""
    names = list(rows[0].setting)
    return next((name for name in names if all(_is_number(row.setting.get(name)) for row in rows)), names[0])


def _is_number(value: JsonScalar) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _places(values: Sequence[JsonScalar]) -> tuple[Callable[[JsonScalar], float], tuple[tuple[float, str], ...]]:
    """Return where each value is, between 0 and 1, and the labels of all."""
    if all(_is_number(value) for value in values):
        found = sorted({float(value) for value in values})  # type: ignore[arg-type]
        if len(found) > 1:
            log = found[0] > 0 and found[-1] / found[0] >= _BY_RATIO
            axis = Scale(found[0], found[-1], (), log=log)
            ticks = tuple((_inside(axis.place(one)), shown(one)) for one in found)
            return lambda value: _inside(axis.place(float(value or 0))), ticks
    names = list(dict.fromkeys(values))
    at = {value: _inside(place / (len(names) - 1)) if len(names) > 1 else 0.5 for place, value in enumerate(names)}
    return at.__getitem__, tuple((place, _plain(shown(value))) for value, place in at.items())


def _inside(place: float) -> float:
    return _MARGIN + (1 - 2 * _MARGIN) * place


def _series(rows: Sequence[SettingRow], options: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the series of each setting, and the names of all; none if there is but one."""
    if not options:
        return [0] * len(rows), ()
    texts = [_text({name: row.setting.get(name) for name in options}) for row in rows]
    names = list(dict.fromkeys(texts))
    if len(names) <= _MOST_SERIES:
        return [names.index(text) for text in texts], tuple(names)
    values = [row.setting.get(options[0]) for row in rows]
    if len(options) > 1 or not all(_is_number(value) for value in values):
        return [0] * len(rows), ()
    found = sorted({float(value) for value in values})  # type: ignore[arg-type]
    ends = [found[at * len(found) // _RANGES] for at in range(_RANGES)]
    last = [found[(at + 1) * len(found) // _RANGES - 1] for at in range(_RANGES)]
    ranges = tuple(f"{options[0]} {a:.3g} to {b:.3g}" for a, b in zip(ends, last, strict=True))
    return [sum(float(value or 0) >= end for end in ends[1:]) for value in values], ranges


def _text(setting: Setting) -> str:
    return _plain(", ".join(f"{name} {shown(value)}" for name, value in setting.items()))


def _others(rows: Sequence[SettingRow], choose: str) -> Iterator[tuple[str, Callable[[SettingRow], float | None]]]:
    """Yield title and value of other scores, and of what settings cost, in the largest unit of which the most has two."""
    for name in scored_by(rows, choose):
        yield name_of(name), partial(_metric, name)
    for cost in COSTS:
        most = max((found for row in rows if (found := cost.of(row)) is not None), default=0.0)
        units = list(cost.units.items())
        name, size = next((unit for unit in reversed(units) if most >= 2 * unit[1]), units[0])
        yield f"{cost.title}, {name}" if name else cost.title, partial(_in_unit, cost, size)


def _in_unit(cost: Cost, size: float, row: SettingRow) -> float | None:
    found = cost.of(row)
    return None if found is None else found / size


def _legend(main: SettingPanel) -> Iterator[str]:
    if any(mark.low is not None for mark in main.marks):
        yield "bar: ± one standard error"
    if any(not dot.pruned for dot in main.dots):
        yield "small points: seeds"
    if any(dot.pruned for dot in main.dots):
        yield "hollow points: stopped early"
    if any(mark.best for mark in main.marks):
        yield "ring: the best"


def _plain(text: str) -> str:
    shown_text = "".join(c if c.isprintable() else "?" for c in text)
    return shown_text if len(shown_text) <= _NAME else f"{shown_text[: _NAME - 1]}…"
