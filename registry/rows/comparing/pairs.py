"""The statistics of a comparison of each target with each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING

from registry.rows.comparing.row_values import LOSS, RowValues
from registry.rows.comparing.verdicts import Clusters, short_names, verdict_on
from sdk.schemas.scores import ComparedPair
from sdk.statistics.comparison import (
    ALPHA,
    LEAST_CLUSTERS,
    RowsComparison,
    compare_rows,
    holm,
    least_difference,
    paired_ratio,
    rows_needed,
)

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
) -> list[ComparedPair]:
    """Compare each target with each other; `digests` are those of their records, and determine what is drawn at
    random.
    """
    pairs = list(combinations(range(len(refs)), 2))
    found = []
    for a, b in pairs:
        ratio = paired_ratio(values.sums[b] - values.sums[a], values.masses, groups=groups)
        seed = "\n".join([*sorted([digests[a], digests[b]]), metric])
        found.append(compare_rows(ratio, seed=seed, step=values.step))
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
    better = -shown if metric == LOSS else shown
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
        p=found.p,
        p_adjusted=p_adjusted,
        test=found.test,
        better=refs[max(better, 0)] if better else None,
        verdict=verdict_on(found, better, names, metric, detectable, kind),
        detectable=detectable,
        rows_needed=needed,
    )
