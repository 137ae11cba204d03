"""The statistics of a comparison of each target with each other, and what the rows show, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING

from registry.rows.comparing.row_values import RowValues
from sdk.schemas.evaluation import LARGEST_SCORES, better_is
from sdk.schemas.scores import ComparedPair, Contamination
from sdk.statistics.comparison import (
    ALPHA,
    LEAST_CLUSTERS,
    LEAST_DIFFERING,
    RowsComparison,
    compare_rows,
    holm,
    least_difference,
    paired_ratio,
    rows_needed,
)
from sdk.statistics.wording import decimals, metric_name, shown_size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def compare_pairs(
    values: RowValues,
    *,
    refs: Sequence[str],
    digests: Sequence[str],
    metric: str,
    groups: npt.NDArray[np.int64] | None,
    kind: Clusters,
    detect: float | None,
    to_first: bool,
) -> list[ComparedPair]:
    """Compare each target with each other, or each with the first alone; `digests` are those of their records, and
    determine what is drawn at random.
    """
    pairs = [(a, b) for a, b in combinations(range(len(refs)), 2) if a == 0 or not to_first]
    found = []
    for a, b in pairs:
        ratio = paired_ratio(values.sums[b] - values.sums[a], values.masses, groups=groups)
        seed = "\n".join([*sorted([digests[a], digests[b]]), metric])
        found.append(compare_rows(ratio, seed=seed, step=values.step, bound=LARGEST_SCORES.get(metric)))
    adjusted = holm([one.p for one in found if one.p is not None])
    names = short_names(refs)
    return [
        _present(
            one,
            refs=(refs[a], refs[b]),
            names=(names[refs[a]], names[refs[b]]),
            metric=metric,
            p_adjusted=None if one.p is None else adjusted.pop(0),
            kind=kind,
            # Holm's correction requires this of the smallest p of several.
            alpha=ALPHA / len(pairs),
            detect=detect,
        )
        for (a, b), one in zip(pairs, found, strict=True)
    ]


def _present(
    found: RowsComparison,
    *,
    refs: tuple[str, str],
    names: tuple[str, str],
    metric: str,
    p_adjusted: float | None,
    kind: Clusters,
    alpha: float,
    detect: float | None,
) -> ComparedPair:
    shown = 0 if p_adjusted is None else found.better(p_adjusted)
    better = -shown if better_is(metric) == "less" else shown
    error = found.standard_error
    detectable = needed = None
    # A few groups don't show how groups differ.
    if 0.0 < error < float("inf") and not (kind is not Clusters.ROWS and found.clusters < LEAST_CLUSTERS):
        detectable = least_difference(error, alpha=alpha)
        if size := detect or abs(found.difference):
            # With fewer there would be no verdict.
            least = ceil(found.rows * LEAST_CLUSTERS / found.clusters)
            needed = rows_needed(found.rows, error, size, alpha=alpha)
            needed = None if needed is None else max(least, needed)
    return ComparedPair(
        a=refs[0],
        b=refs[1],
        difference=found.difference,
        low=found.low,
        high=found.high,
        differing=found.differing if found.differing < LEAST_DIFFERING else None,
        coverage="approximate" if found.approximate else None,
        p=found.p,
        p_adjusted=p_adjusted,
        test=found.test,
        better=refs[max(better, 0)] if better else None,
        verdict=verdict_on(found, better, names, metric, detectable, kind),
        detectable=detectable,
        rows_needed=needed,
    )


class Clusters(StrEnum):
    """What sentences call the units that count once."""

    #: Each row stands alone.
    ROWS = "rows"
    #: Rows with the same value in a column.
    GROUPS = "groups"
    #: Some rows are equal.
    DIFFERENT = "different rows"


def verdict_on(
    found: RowsComparison, better: int, names: tuple[str, str], metric: str, detectable: float | None, kind: Clusters
) -> str:
    """Say which of two targets, (a, b), is better (-1, 1) and by how much, or why the rows don't show it."""
    if found.clusters < LEAST_CLUSTERS:
        return f"too few {kind}: {found.clusters} of at least {LEAST_CLUSTERS}"
    if better and found.low is not None and found.high is not None:
        winner, loser = (names[1], names[0]) if better > 0 else names
        # By how much the winner scores better.
        sizes = sorted(end if found.difference > 0 else -end for end in (found.low, found.high))
        digits = decimals((found.high - found.low) / 2)
        by, low, high = (f"{size:.{digits}f}" for size in (abs(found.difference), *sizes))
        return f"{winner} beats {loser} on {metric_name(metric)} by {by} [{low}, {high}]"
    rows = f"{found.rows} rows"
    if kind is Clusters.GROUPS:
        rows += f" in {found.clusters} groups"
    elif kind is Clusters.DIFFERENT:
        rows += f", {found.clusters} of them different,"
    if detectable is None:
        return f"no difference shown: all {rows.removesuffix(',')} score the same"
    return f"no difference shown; these {rows} can show {shown_size(detectable)} or more"


def notes_on_few(pairs: Sequence[ComparedPair], kind: Clusters) -> list[str]:
    """A note for each pair whose interval is only approximate, or contains zero beside a verdict, because few differ."""
    notes = []
    for pair in pairs:
        if pair.differing is None or pair.low is None or pair.high is None:
            continue
        only = f"only {pair.differing} {kind} differ{'s' if pair.differing == 1 else ''} between {pair.a} and {pair.b}"
        if pair.coverage == "approximate":
            notes.append(f"{only}: the interval may hold the true difference less often than in 95 % of all cases")
        elif pair.better is not None and pair.low <= 0 <= pair.high:
            notes.append(f"{only}: the difference is significant by the test, but its 95 % interval holds 0")
    return notes


def with_training_rows(
    pair: ComparedPair, seen: Mapping[str, Contamination | None], refs: Sequence[str]
) -> ComparedPair:
    """Return a pair whose verdict also says which of the two was trained on rows of the comparison; if it was trained on
    all of them, neither is better.
    """
    names = short_names(refs)
    trained = {ref: found for ref in (pair.a, pair.b) if (found := seen.get(ref)) is not None and found.found}
    if not trained:
        return pair
    every = [names[ref] for ref, found in trained.items() if found.found == found.rows]
    if every and pair.better is not None:
        rows = trained[pair.a if pair.a in trained else pair.b].rows
        why = f"{' and '.join(every)} {'was' if len(every) == 1 else 'were'} trained on all {rows} rows"
        return pair.model_copy(
            update={"better": None, "verdict": f"no verdict on other rows, since {why}; on these, {pair.verdict}"}
        )
    told = [
        f"{names[ref]} was trained on {found.found} of {found.rows} rows{', or on nearly the same' if found.near else ''}"
        for ref, found in trained.items()
    ]
    return pair.model_copy(update={"verdict": f"{pair.verdict}; but {' and '.join(told)}"})


def short_names(refs: Sequence[str]) -> Mapping[str, str]:
    """What sentences call each target: versions of the same adapter are called by their number alone.

    >>> short_names(["code-review@v3", "code-review@v4"]), short_names(["a@v1", "base:tiny"])
    ({'code-review@v3': 'v3', 'code-review@v4': 'v4'}, {'a@v1': 'a@v1', 'base:tiny': 'base:tiny'})
    """
    parts = [ref.partition("@") for ref in refs]
    same = len({adapter for adapter, _, _ in parts}) == 1 and all(at for _, at, _ in parts)
    return {ref: selector if same else ref for ref, (_, _, selector) in zip(refs, parts, strict=True)}
