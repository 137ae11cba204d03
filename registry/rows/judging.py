"""What the rows of a version's scores say to the limits of a rule: by name in a process apart, with paths and plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import Conflict
from registry.rows.comparing.orders import RowsOf, scores_of
from registry.rows.comparing.row_values import RowValues, read_values
from registry.rows.groups import BY, equal_rows, groups_of
from registry.rows.reading_limits import MOST_WORK
from sdk.schemas.evaluation import LARGEST_SCORES
from sdk.schemas.scores import MOST_SLICES
from sdk.statistics.bootstrap import PairedRatio, paired_ratio
from sdk.statistics.comparison import LEAST_CLUSTERS
from sdk.statistics.gates import (
    Judged,
    JudgedLimit,
    JudgedSlices,
    ScoreLimit,
    judge_not_worse,
    judge_score,
    judge_slices,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Whole = npt.NDArray[np.int64]

#: Judges the sums of rows that were added up by group.
_Judge = Callable[[PairedRatio, float], Judged]


def judge(
    *,
    targets: Sequence[RowsOf],
    metric: str,
    limits: Sequence[dict[str, Any]],
    alpha: float,
    lower_is_better: bool,
    dataset: str | None,
    by: str | None,
    cluster: str | None,
    signatures: str | None,
) -> list[dict[str, Any]]:
    """Return what the rows of the first target say to each limit, a `JudgedLimit` as JSON. Raises what `read_values` and
    `groups_of` raise, Verification; Conflict if signatures don't have the rows.
    """
    most = MOST_WORK // len(targets)
    read: dict[int, RowValues] = {}
    for other in {0, *(one["target"] for one in limits if one["asked"] == "not_worse_than")}:
        chosen = targets[:1] if other == 0 else [targets[0], targets[other]]
        rows = [(ref, scores_of(ident, Path(path))) for ref, ident, path in chosen]
        read[other] = read_values(rows, metric, most=most)
    parts = _Parts(dataset, by=by, cluster=cluster, signatures=signatures)
    found = []
    for given in limits:
        limit = ScoreLimit(**given)
        if limit.asked == "not_worse_than":
            values = read[limit.target]
            one = _not_worse(values, limit, parts, alpha, metric, lower_is_better)
            # Of the rows that are left out, those that the judged version has are its own.
            lacking = values.left_out - (len(read[0].rows) - len(values.rows))
            if lacking:
                one = _lacks(one, lacking, targets[limit.target][0])
        else:
            one = _score(read[0], limit, parts, alpha, metric)
        found.append(asdict(one))
    return found


def _score(values: RowValues, limit: ScoreLimit, parts: _Parts, alpha: float, metric: str) -> JudgedLimit:
    largest = LARGEST_SCORES.get(metric)
    yes_or_no = largest is not None or values.step is not None

    def of(rows: PairedRatio, own: float) -> Judged:
        return judge_score(rows, limit, alpha=own, largest=largest, yes_or_no=yes_or_no)

    return parts.judged(values, values.sums[0], limit, alpha, of)


def _not_worse(
    values: RowValues, limit: ScoreLimit, parts: _Parts, alpha: float, metric: str, lower_is_better: bool
) -> JudgedLimit:
    largest = LARGEST_SCORES.get(metric)
    step = values.step if largest in (None, 1.0) else None

    def of(rows: PairedRatio, own: float) -> Judged:
        return judge_not_worse(rows, limit, alpha=own, lower_is_better=lower_is_better, step=step, largest=largest)

    return parts.judged(values, values.sums[0] - values.sums[1], limit, alpha, of)


def _lacks(one: JudgedLimit, lacking: int, ref: str) -> JudgedLimit:
    rows = "1 row has" if lacking == 1 else f"{lacking} rows have"
    why = f"{rows} a score of {ref} alone, which says nothing of this version; score it again: adapterctl eval REF --again"
    return JudgedLimit(replace(one.whole, outcome="unknown", near=None, method=None, why=why))


class _Parts:
    """The groups that rows count once by, and those that are judged by themselves, read once for the same rows."""

    def __init__(self, dataset: str | None, *, by: str | None, cluster: str | None, signatures: str | None) -> None:
        self._dataset, self._by, self._cluster, self._signatures = dataset, by, cluster, signatures
        self._known: list[tuple[Whole, Whole | None, tuple[Whole, list[str]] | None]] = []

    def judged(self, values: RowValues, sums: Floats, limit: ScoreLimit, alpha: float, of: _Judge) -> JudgedLimit:
        """Judge all rows, and each group of enough."""
        clusters, slices = self._of(values.rows)
        whole = of(paired_ratio(sums, values.masses, groups=clusters), alpha)
        if slices is None:
            return JudgedLimit(whole)
        names, large, few = [], [], []
        for name, places in _largest_first(*slices):
            own = None if clusters is None else _renumbered(clusters[places])
            found = paired_ratio(sums[places], values.masses[places], groups=own)
            if found.clusters < LEAST_CLUSTERS:
                few.append(name)
            else:
                names.append(name)
                large.append(found)
        each = [of(one, alpha / len(large)) for one in large]
        return JudgedLimit(whole, judge_slices(names, each, few, limit.asked))

    def _of(self, rows: Whole) -> tuple[Whole | None, tuple[Whole, list[str]] | None]:
        import numpy as np

        for known, clusters, slices in self._known:
            if np.array_equal(known, rows):
                return clusters, slices
        self._known.append((rows, self._clusters(rows), self._slices(rows)))
        return self._known[-1][1:]

    def _clusters(self, rows: Whole) -> Whole | None:
        if self._cluster is not None and self._dataset is not None:
            return groups_of(Path(self._dataset), self._cluster, rows, value_of=BY["group"]).numbers
        if self._signatures is None:
            return None
        found = equal_rows(Path(self._signatures), rows)
        if found is None:
            raise Conflict(
                "whether rows are equal is not known, since the dataset is read otherwise by this release; score the version "
                "again: adapterctl eval REF --again"
            )
        owners, counts = found
        return None if len(counts) == len(rows) else owners

    def _slices(self, rows: Whole) -> tuple[Whole, list[str]] | None:
        if self._by is None or self._dataset is None:
            return None
        found = groups_of(Path(self._dataset), self._by, rows, value_of=BY["json"], most=MOST_SLICES)
        return found.numbers, found.shown()


def _largest_first(numbers: Whole, names: Sequence[str]) -> Iterator[tuple[str, Whole]]:
    """Yield the name and the places of each group."""
    import numpy as np

    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers, minlength=len(names))
    parts = np.split(order, np.cumsum(counts)[:-1])
    for group in np.argsort(-counts, kind="stable"):
        yield names[group], parts[group]


def _renumbered(groups: Whole) -> Whole | None:
    """Groups with numbers from 0; None if each has one row."""
    import numpy as np

    values, numbers = np.unique(groups, return_inverse=True)
    return None if len(values) == len(groups) else numbers


def judged_limit(found: dict[str, Any]) -> JudgedLimit:
    """What `judge` returned for a limit."""
    slices = found["slices"]
    if slices is not None:
        slices = JudgedSlices(**{**slices, "worst": None if slices["worst"] is None else Judged(**slices["worst"])})
    return JudgedLimit(Judged(**found["whole"]), slices)
