"""What a target scored on parts of a dataset, by the value that rows have in a column."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdk.schemas.wire import Wire

#: The most values of a column for which scores are shown.
MOST_SLICES = 50


class Slice(Wire):
    """The rows with one value."""

    #: A text as it is, anything else as JSON.
    value: str
    #: Rows with a loss, and rows whose loss is not a number.
    rows: int
    failed_rows: int
    #: Other rows, which could not be scored.
    unscored_rows: Annotated[int, Field(exclude_if=lambda value: value == 0)] = 0
    #: Number of supervised tokens that the loss is over; a label counts as one.
    tokens: int
    #: The loss in nats per token, each token counted once, and the mean of each score over the rows that have it;
    #: without scores that no row has, and without those over a whole corpus.
    metrics: dict[str, float]
    #: Score → the number of rows that its mean is over.
    scored: dict[str, int] = {}


class SlicedScores(Wire):
    """The scores of one evaluation, grouped by the values of a column."""

    #: The id of the scores.
    evaluation: str
    #: The column.
    by: str
    #: The values with the most rows first.
    slices: list[Slice]
