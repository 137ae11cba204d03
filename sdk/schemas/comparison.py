"""Which of several models scores better on the same rows: what is asked, and what the rows say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.contamination import Contamination
from sdk.schemas.wire import Wire

#: Targets that are compared at once; each is compared with each.
MOST_TARGETS = 8
#: Rows that are shown side by side.
MOST_EXAMPLES = 100


class Compared(Wire):
    """One of the targets, by what it scored on the rows that all have."""

    #: "code-review@v3", or "base:ID".
    ref: str
    #: The id of its scores.
    evaluation: str
    #: The mean over these rows; of the loss over their tokens.
    score: float
    #: Rows of the whole dataset that it was trained on; None where nobody has looked yet.
    contamination: Contamination | None = None


class ComparedPair(Wire):
    """What the rows say of two targets."""

    a: str
    b: str
    #: b - a, of means.
    difference: float
    #: Ends of the 95 % interval of the difference; None of too few rows or groups, and where no row differs and nothing
    #: says by how much one could.
    low: float | None
    high: float | None
    #: How often targets that are alike would differ by as much. None of too few rows or groups.
    p: float | None
    #: The same among all pairs (Holm): what is below 0.05 is a verdict.
    p_adjusted: float | None
    test: Literal["sign-flip", "mcnemar"] | None
    #: The one that scores better, if one is shown to.
    better: str | None
    #: In words.
    verdict: str
    #: The smallest difference that rows like these show in 80 % of all cases; None where no row differs.
    detectable: float | None
    #: How many rows like these show the difference, or the one that was asked for, in 80 % of all cases; None where there
    #: is none, no row differs, or it takes more than 10^12.
    rows_needed: int | None


class ChangedRow(Wire):
    """A row on which the targets differ, with what each made of it, in the order of `refs`."""

    #: Its number in the dataset, from 0.
    row: int
    #: What was asked and expected; None where the dataset can't be read any more.
    prompt: str | None = None
    reference: str | None = None
    scores: list[float]
    #: None where nothing was generated, or no text was kept.
    predictions: list[str | None]


class Comparison(Wire):
    """Targets that were scored alike on the same rows, row by row."""

    metric: str
    lower_is_better: bool
    #: Digest of the dataset.
    dataset: str
    #: How many rows all of them have a score of.
    rows: int
    #: The column that rows of one group have alike, and how many groups there are; None: each row stands alone.
    by: str | None
    groups: int | None
    #: How many of the rows differ from one another, where some have equal fields and none are grouped: equal rows count as one.
    distinct_rows: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None
    refs: list[str]
    scores: list[Compared]
    #: Each with each.
    pairs: list[ComparedPair]
    #: Notes on the comparison as a whole, in sentences.
    notes: list[str] = []
    #: Those that changed most, first.
    examples: list[ChangedRow] = []
