"""Which of several models scores better on the same rows: the question, and the rows' answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.contamination import Contamination
from sdk.schemas.wire import Wire

#: How many targets are compared at once; all pairs are compared.
MOST_TARGETS = 8
#: The most rows shown side by side.
MOST_EXAMPLES = 100


class Compared(Wire):
    """One of the targets, with its score on the rows that all have."""

    #: "code-review@v3", or "base:ID".
    ref: str
    #: The id of its scores.
    evaluation: str
    #: The namespace whose job made them.
    namespace: str
    #: The mean over these rows; for the loss, over their tokens.
    score: float
    #: Rows of the whole dataset that it was trained on; None if this has not been checked yet.
    contamination: Contamination | None = None


class ComparedPair(Wire):
    """What the rows say about two targets."""

    a: str
    b: str
    #: b - a, the difference of the means.
    difference: float
    #: Ends of the 95 % interval of the difference; None if there are too few rows or groups, or if no row differs and
    #: nothing tells by how much one could.
    low: float | None
    high: float | None
    #: How often equally good targets would differ by as much. None if there are too few rows or groups.
    p: float | None
    #: The same, corrected for all pairs (Holm): below 0.05 there is a verdict.
    p_adjusted: float | None
    test: Literal["sign-flip", "mcnemar"] | None
    #: The one that scores better, if the rows show it.
    better: str | None
    #: In words.
    verdict: str
    #: The smallest difference that rows like these show in 80 % of all cases; None if no row differs.
    detectable: float | None
    #: How many rows like these are needed to show the difference, or the one that was asked for, in 80 % of all cases;
    #: None if there is none, no row differs, or it takes more than 10^12.
    rows_needed: int | None


class ChangedRow(Wire):
    """A row on which the targets differ, with each one's result, in the order of `refs`."""

    #: Its number in the dataset, from 0.
    row: int
    #: The prompt and the expected text; None if the dataset can no longer be read.
    prompt: str | None = None
    reference: str | None = None
    scores: list[float]
    #: None if nothing was generated, or no text was kept.
    predictions: list[str | None]


class Comparison(Wire):
    """Targets that were scored in the same way on the same rows, row by row."""

    metric: str
    lower_is_better: bool
    #: Digest of the dataset.
    dataset: str
    #: On how many rows all of them have a score.
    rows: int
    #: The column whose value rows of one group share, and how many groups there are; None: each row stands alone.
    by: str | None
    groups: int | None
    #: How many different rows there are, if some have equal fields and they aren't grouped: equal rows count as one.
    distinct_rows: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None
    refs: list[str]
    scores: list[Compared]
    #: All pairs.
    pairs: list[ComparedPair]
    #: Notes on the comparison as a whole, in sentences.
    notes: list[str] = []
    #: Those that changed most, first.
    examples: list[ChangedRow] = []
