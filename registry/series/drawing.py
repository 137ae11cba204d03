"""A picture of curves as it is sent: the series of many trainings over one axis, reduced to what can be seen.

All points are in it: a band from the least to the greatest value of each column, and over it a mean of all values. Scores of
held-out rows are at their own steps.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from registry.series.cells import reduced
from registry.series.grids import Axis, Clock, coarser, step_places
from sdk.plotting.curves import HELD_OUT, LOSS, NORM, RATE
from sdk.schemas.series import MOST_JOBS, OF_LOOKS
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import Wire

if TYPE_CHECKING:
    from registry.series.cells import Array

By: TypeAlias = Literal["step", "seconds"]
#: How many columns a picture of so many curves has: about one for two pixels of a screen, or of a part of it.
_COLUMNS = ((4, 400), (16, 240), (MOST_JOBS, 80))
#: About how many means a line has.
_MEANS = 80
#: How many scores of held-out rows a curve has.
_MOST_LOOKS = 400
#: How long each step took.
SECONDS = "seconds"
#: The series of steps that are drawn, with the titles of their panels.
_LINES = {LOSS: "loss", RATE: "learning rate", NORM: "gradient norm"}
#: What the loss of an objective counts; that of the others is in no unit.
_UNITS = {"sft": "nats per token"}
#: Digits of a value that is sent.
_DIGITS = 5


class CurveName(Wire):
    """Whose curve it is."""

    #: A version's ref, or a job's id and what it trains.
    name: str
    ref: str | None = None
    job: str | None = None
    #: How many steps it has.
    last_step: int = 0
    #: The place of the best look at held-out rows on the axis, and whether its weights are those of the version.
    best_at: float | None = None
    best_step: int | None = None
    kept: bool = False


class DrawnLine(Wire):
    """One series of one training in the columns of the picture."""

    #: Whose, by its place among `curves`.
    curve: int
    #: Places in `at`, and the mean of all values of as many columns; None: all places.
    columns: list[int] | None = None
    mean: list[float]
    #: The least and greatest value of each column; empty if these are the means. Places in `at`; None: those of the means.
    band: list[int] | None = None
    low: list[float] = Field(default_factory=list)
    high: list[float] = Field(default_factory=list)
    #: Over how many steps a mean is at most.
    steps_a_mean: int = 1

    def means(self, at: Sequence[float]) -> Iterator[tuple[float, float]]:
        """Yield the place and the value of each mean; `at` has the places of the picture's columns."""
        columns = range(len(at)) if self.columns is None else self.columns
        yield from ((at[column], mean) for column, mean in zip(columns, self.mean, strict=True))

    def spans(self, at: Sequence[float]) -> Iterator[tuple[float, float, float]]:
        """Yield the place, the least and the greatest value of each column of the band, if it has one."""
        band = self.columns if self.band is None else self.band
        columns = (range(len(at)) if band is None else band)[: len(self.low)]
        yield from zip((at[column] for column in columns), self.low, self.high, strict=True)


class DrawnLooks(Wire):
    """Scores of the held-out rows of one training, where they were taken."""

    curve: int
    at: list[float]
    step: list[int]
    value: list[float]


class DrawnPanel(Wire):
    """One axis of values."""

    #: The name of its series of steps, or of its scores.
    key: str
    title: str
    unit: str = ""
    lines: list[DrawnLine] = Field(default_factory=list)
    looks: list[DrawnLooks] = Field(default_factory=list)


class Drawing(Wire):
    """What a picture of curves shows."""

    by: By
    #: The places of its columns, in steps or in seconds of training.
    at: list[float]
    curves: list[CurveName]
    panels: list[DrawnPanel]
    #: Over how many steps a mean of any line is at most.
    steps_a_mean: int = 0
    #: What was asked for and isn't there: unknown, without a point, or without times.
    left_out: list[str] = Field(default_factory=list)


@dataclass
class DrawnTraining:
    """One training that is drawn."""

    name: CurveName
    #: By series.
    cells: dict[str, Array]
    record: TrainingRecord
    #: If the axis is in seconds.
    clock: Clock | None = None

    def is_drawn(self, by: By) -> bool:
        """Whether there is anything to draw."""
        return any(map(is_drawn, self.cells)) and (by == "step" or SECONDS in self.cells)

    def places(self, cells: Array) -> Array:
        """Where cells (n) are on the axis."""
        return step_places(cells) if self.clock is None else self.clock.at(step_places(cells))


def is_drawn(key: str) -> bool:
    """Whether a picture shows the series of this name."""
    return key in _LINES or key.startswith(OF_LOOKS)


class WantedSeries:
    """The names of series that a picture needs, of whatever names there are."""

    def __init__(self, keys: Container[str] | None, by: By) -> None:
        self._keys, self._by = keys, by

    def __contains__(self, key: object) -> bool:
        """Whether it is one of them: held-out losses are drawn with the losses."""
        if key == SECONDS:
            return self._by == "seconds"
        panel = LOSS if key == HELD_OUT else key
        return isinstance(key, str) and is_drawn(key) and (self._keys is None or panel in self._keys)


def drawing_of(found: Sequence[DrawnTraining], by: By, left_out: list[str]) -> Drawing:
    """Draw trainings that have something to be drawn."""
    if by == "seconds":
        for one in found:
            one.clock = Clock(one.cells[SECONDS])
    drawn = [{key: cells for key, cells in one.cells.items() if is_drawn(key)} for one in found]
    axis = _axis(found, drawn, by)
    panels = list(_panels(found, drawn, axis))
    lines = [line for panel in panels for line in panel.lines]
    columns = sorted({at for line in lines for at in (*(line.columns or ()), *(line.band or ()))})
    middles = _rounded(axis.middles())
    return Drawing(
        by=by,
        at=[middles[at] for at in columns],
        curves=[_whose(one, cells) for one, cells in zip(found, drawn, strict=True)],
        panels=[_in_columns(panel, {at: place for place, at in enumerate(columns)}) for panel in panels],
        steps_a_mean=max((line.steps_a_mean for line in lines), default=0),
        left_out=left_out,
    )


def _panels(found: Sequence[DrawnTraining], drawn: Sequence[Mapping[str, Array]], axis: Axis) -> Iterator[DrawnPanel]:
    """Yield the loss with its held-out scores, all other held-out scores, and what else steps have."""
    units = {_UNITS.get(one.record.objective or "", "") for one in found}
    unit = units.pop() if len(units) == 1 else ""
    scores = sorted({key for cells in drawn for key in cells if key.startswith(OF_LOOKS) and key != HELD_OUT})
    for key in (LOSS, *scores, RATE, NORM):
        of_looks = HELD_OUT if key == LOSS else key
        lines = [
            _line(at, one, cells[key], axis, averaged=key != RATE)
            for at, (one, cells) in enumerate(zip(found, drawn, strict=True))
            if key in _LINES and key in cells
        ]
        looks = [
            _looks(at, one, cells[of_looks])
            for at, (one, cells) in enumerate(zip(found, drawn, strict=True))
            if of_looks not in _LINES and of_looks in cells
        ]
        if lines or looks:
            title = _LINES.get(key) or f"held-out {key.removeprefix(OF_LOOKS).replace('_', ' ')}"
            yield DrawnPanel(key=key, title=title, unit=unit if key == LOSS else "", lines=lines, looks=looks)


def _axis(found: Sequence[DrawnTraining], drawn: Sequence[Mapping[str, Array]], by: By) -> Axis:
    most = next(columns for curves, columns in _COLUMNS if len(found) <= curves)
    if by == "seconds":
        return Axis(0.0, max([1e-3, *(one.clock.whole_s for one in found if one.clock is not None)]), most)
    every = [cells for one in drawn for cells in one.values()]
    first = min((int(cells["first"][0]) for cells in every), default=0)
    past = max((int(cells["step"][-1]) for cells in every), default=0) + 1
    columns = min(most, past - first)
    # The middle of a column is that of its steps.
    return Axis(first - 0.5, past - 0.5, columns)


def _line(at: int, one: DrawnTraining, cells: Array, axis: Axis, *, averaged: bool) -> DrawnLine:
    fine = axis.gathered(cells, one.places(cells))
    means = coarser(fine, axis.columns // _MEANS) if averaged and len(fine.columns) >= 2 * _MEANS else fine
    counts = means.cells["count"]
    line = DrawnLine(
        curve=at,
        columns=means.columns.tolist(),
        mean=_rounded(means.cells["mean"]),
        steps_a_mean=int(counts.max()) if averaged else 1,
    )
    # A schedule is smooth: a band of it would not be seen.
    if not averaged or (means is fine and bool((counts == 1).all())):
        return line
    low, high = _rounded(fine.cells["min"]), _rounded(fine.cells["max"])
    band = None if means is fine else fine.columns.tolist()
    return line.model_copy(update={"band": band, "low": low, "high": high})


def _looks(at: int, one: DrawnTraining, cells: Array) -> DrawnLooks:
    some = reduced(cells, _MOST_LOOKS)
    # A look is at one step; a bucket of several has its mean at its last.
    places = some["step"] if one.clock is None else one.clock.at(some["step"])
    return DrawnLooks(curve=at, at=_rounded(places), step=some["step"].tolist(), value=_rounded(some["mean"]))


def _whose(one: DrawnTraining, cells: Mapping[str, Array]) -> CurveName:
    """Say what the best look was, as the record of the version has it; otherwise as the series has it."""
    import numpy as np

    last = max(int(some["step"][-1]) for some in cells.values())
    kept = one.record.best_step if "best_step" in one.record.model_fields_set else None
    best, looks = kept, cells.get(HELD_OUT)
    if best is None and looks is not None and (lowest := int(looks["min"].argmin())) < len(looks) - 1:
        best = int(looks["step"][lowest])
    at = best if best is None or one.clock is None else float(one.clock.at(np.array([float(best)]))[0])
    return one.name.model_copy(update={"last_step": last, "best_at": at, "best_step": best, "kept": kept is not None})


def _in_columns(panel: DrawnPanel, places: Mapping[int, int]) -> DrawnPanel:
    """The panel without the columns in which no line of any has a value."""

    def placed(columns: list[int] | None) -> list[int] | None:
        return None if columns is None or len(columns) == len(places) else [places[at] for at in columns]

    lines = []
    for line in panel.lines:
        # A band in all columns says so by their number, unless the means are in fewer.
        columns, band = placed(line.columns), line.band if line.band is None else [places[at] for at in line.band]
        lines.append(line.model_copy(update={"columns": columns, "band": band}))
    return panel.model_copy(update={"lines": lines})


def _rounded(values: Array) -> list[float]:
    """Numbers (n) with the digits that are seen."""
    import numpy as np

    found = values.astype(np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(np.abs(found))))
        short = np.rint(found * scale) / scale
    rounded: list[float] = np.where(np.isfinite(short), short, found).tolist()
    return rounded
