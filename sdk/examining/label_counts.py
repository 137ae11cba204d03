"""Which labels a classifier confuses, and how confident it is: counted over the scores of single rows.

>>> from sdk.schemas.evaluation import RowScore
>>> rows = [RowScore(row=n, expected=own, prediction=found) for n, (own, found) in enumerate(("aa", "ab", "bb"))]
>>> found = count_labels(rows)
>>> found.labels, found.counts
(['a', 'b'], [[1, 1], [0, 1]])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sdk.schemas.evaluation import RowScore
from sdk.statistics.calibration import Bin, Calibration

#: No table is made for more labels.
MOST_LABELS = 50


@dataclass(frozen=True)
class LabelCounts:
    """How the rows of a classification were labelled."""

    #: The rows' own and the predicted labels, sorted; empty if there are too many, or if the rows don't have any.
    labels: list[str]
    #: counts[i][j]: rows that have the label i and for which j was predicted.
    counts: list[list[int]]
    #: Rows by the confidence of the prediction, and the expected calibration error; None if the rows don't record it.
    calibration: list[Bin]
    calibration_error: float | None
    #: Why there are no counts.
    note: str | None = None


def count_labels(rows: Sequence[RowScore]) -> LabelCounts:
    """Count the rows of a classification."""
    calibration = Calibration()
    for row in rows:
        if row.confidence is not None and "accuracy" in row.scores:
            calibration.add(row.confidence, row.scores["accuracy"] == 1.0)
    pairs = Counter(
        (row.expected, row.prediction) for row in rows if row.expected is not None and row.prediction is not None
    )
    labels = sorted({label for pair in pairs for label in pair if label is not None})
    note = None
    if not labels:
        note = "labels are not counted: of these rows no text was kept"
    elif len(labels) > MOST_LABELS:
        note = f"labels are not counted: {len(labels)} occur, and a table has at most {MOST_LABELS}; count them from --rows --format json"
        labels = []
    return LabelCounts(
        labels=labels,
        counts=[[pairs[own, found] for found in labels] for own in labels],
        calibration=calibration.bins(),
        calibration_error=calibration.error if calibration.rows else None,
        note=note,
    )
