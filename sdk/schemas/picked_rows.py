"""Rows of an evaluation that say most about its scores: the lowest, the highest, and those that changed most."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdk.schemas.evaluation import RowScore
from sdk.schemas.wire import Wire

#: How many rows of each kind are picked.
MOST_PICKED = 50
#: The longest text of a picked row, and of a row on a page of all, in characters.
MOST_PICKED_TEXT, MOST_SHOWN_TEXT = 600, 2000
#: How many rows a page of all of them has, and the largest file of which there are pages.
PAGE_ROWS, MOST_PAGED_BYTES = 50, 64 * 1000**2


class PickedRow(Wire):
    """One row, with what its dataset asks and expects, if that is known and may be read."""

    #: Its number in the dataset, from 0.
    row: int
    score: float
    #: The score by the evaluation that is compared with; None: it has none, or nothing is compared.
    other: float | None = None
    prediction: str | None = None
    other_prediction: str | None = None
    prompt: str | None = None
    reference: str | None = None


class PickedRows(Wire):
    """The rows of an evaluation that score lowest and highest by a metric, and differ most from another evaluation."""

    metric: str
    #: How many rows have a score by it, among those that were looked at.
    rows: int
    low: Annotated[list[PickedRow], Field(max_length=MOST_PICKED)]
    high: Annotated[list[PickedRow], Field(max_length=MOST_PICKED)]
    changed: Annotated[list[PickedRow], Field(max_length=MOST_PICKED)] = []
    #: Why prompts and references are not shown, as the rest of a sentence; None: they are.
    without_texts: str | None = None


class ShownRow(Wire):
    """One row on a page of all of them."""

    scored: RowScore
    prompt: str | None = None
    reference: str | None = None


class RowPage(Wire):
    """Some of the rows of an evaluation, in the order of the dataset."""

    #: The place of the first of them among the rows that have scores, from 0.
    first: int
    rows: list[ShownRow]
    #: Whether others follow.
    more: bool
    without_texts: str | None = None
