"""What a target scored on parts of a dataset, by the value that rows have in a column."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdk.schemas.wire import Wire

#: Values of a column that scores are shown of.
MOST_SLICES = 50


class Slice(Wire):
    """The rows with one value."""

    #: A text as it is, anything else as JSON.
    value: str
    #: Rows with a loss, and rows whose loss is no number.
    rows: int
    failed_rows: int
    #: Others, of which nothing could be scored.
    unscored_rows: Annotated[int, Field(exclude_if=lambda value: value == 0)] = 0
    #: Supervised tokens that the loss is over; a label counts as one.
    tokens: int
    #: The loss in nats a token, each token counted once, and the mean of each score over the rows that have it; without what no row
    #: has, and what is of a whole corpus.
    metrics: dict[str, float]
    #: Score → how many rows its mean is over.
    scored: dict[str, int] = {}


class SlicedScores(Wire):
    """The scores of one evaluation, by the values of a column."""

    #: The id of the scores.
    evaluation: str
    #: The column.
    by: str
    #: Those with most rows first.
    slices: list[Slice]
