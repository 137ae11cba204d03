"""What of a dataset's rows a training would learn, before there is one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.training import Day, Rendering
from sdk.schemas.wire import Wire

#: What a job's result holds at most: rows that are asked for, and bytes of the whole as JSON.
MOST_JOB_ROWS = 100
MOST_JOB_BYTES = 1024 * 1024

#: Characters of a text, [start, end).
Span = Annotated[list[int], Field(min_length=2, max_length=2)]


class PreviewRequest(Wire):
    """What is asked of the program that renders rows."""

    #: A folder with a base's config and tokenizer, and nothing else.
    base: str
    #: The dataset file.
    data: str
    loss_on: Literal["completion", "assistant", "all"] | None
    #: Longest row in tokens.
    max_length: int
    #: What a template that asks for the date is told.
    day: Day
    #: So many rows from the first.
    rows: Annotated[int, Field(ge=1, le=10_000)] = 3
    #: Show only this row, counted from 1.
    row: Annotated[int, Field(ge=1)] | None = None


class PreviewText(Wire):
    """One text that a row becomes: most become one, a conversation sometimes one for each answer."""

    #: The number of its row, counted from 1.
    row: int
    #: What messages call the row: "line 7" or "row 7".
    where: str
    #: The tokens that are trained on, as text again.
    text: str
    #: How many they are.
    tokens: int
    supervised_tokens: int
    #: Parts of the text that the loss is taken on, in characters; rounded outwards where a token ends inside a character.
    supervised: list[Span]
    #: These parts, joined.
    supervised_text: str
    #: The token that teaches where to stop; None where it was cut off, or all of a conversation is learnt.
    stop: str | None
    #: Tokens past the longest row, which are left out.
    cut_tokens: int
    #: What they say.
    cut_text: str
    #: As in `Rendering.methods`; None of texts that no template renders.
    method: str | None
    #: What a classification learns of the text as a whole.
    label: str | None = None


class PreviewTotals(Wire):
    """What a training would make of the whole file."""

    #: Texts that rows become.
    samples: int
    tokens: int
    supervised_tokens: int
    rows_cut: int
    #: Rows of which the cut leaves nothing to learn.
    rows_dropped: int


class Preview(Wire):
    """Rows as a training would learn them."""

    shape: Literal["prompt", "messages", "text", "text-label"]
    loss_on: Literal["completion", "assistant", "all", "label"]
    #: What a classification tells apart, in the order that numbers it.
    labels: list[str] = []
    #: Longest row in tokens: what was asked for, or the base's positions where those are fewer.
    max_length: int
    #: Rows of the file.
    file_rows: int
    #: None of a file with more rows than are counted.
    totals: PreviewTotals | None
    #: How all rows were rendered, or those that are shown where there are no totals.
    rendering: Rendering
    #: What the rows become that were asked for, in their order.
    rows: list[PreviewText]
    #: Texts of these rows after the last that is shown, for which a job's result has no room.
    left_out: int = 0
