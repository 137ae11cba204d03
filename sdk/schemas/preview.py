"""What a training would learn from a dataset's rows, shown before training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.formats.objectives import LearntOn, LossOn
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.option_types import Columns
from sdk.schemas.recorded import Day, Rendering
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.version_records import SpecialTokens
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.schemas.wire import IF_ANY, IF_SET, Wire

#: Limits of a job's result: how many rows may be requested, and the bytes of the whole as JSON.
MOST_JOB_ROWS = 100
MOST_JOB_BYTES = 1024 * 1024

#: Characters of a text, [start, end).
Span = Annotated[list[int], Field(min_length=2, max_length=2)]


class RowsShown(VocabularyFields, TemplateFields, HoldoutFields):
    """Which rows are shown, and how they are read; held-out ones are not counted."""

    loss_on: LossOn | None = None
    #: Which columns are which keys of a row; None: the keys are called as the columns.
    columns: Annotated[Columns | None, IF_SET] = None
    #: Longest row in tokens.
    max_length: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    #: How special tokens meet those of the texts, as the record of a training says it; None: "once".
    special_tokens: Annotated[SpecialTokens | None, IF_SET] = None
    #: How many rows to show, from the first.
    rows: Annotated[int, Field(ge=1, le=10_000)] = 3
    #: Show only this row, counted from 1.
    row: Annotated[int, Field(ge=1, le=10**12)] | None = None


class PreviewRequest(RowsShown):
    """A request to the program that renders rows."""

    #: A folder with only a base's config and tokenizer.
    base: str
    #: The dataset file.
    data: str
    #: The date given to a template that asks for it.
    day: Day


class PreviewText(Wire):
    """One text made from a row: most rows become one text, a conversation sometimes one for each answer."""

    #: The number of its row, counted from 1.
    row: int
    #: How messages refer to the row: "line 7" or "row 7".
    where: str
    #: The tokens that are trained on, decoded to text.
    text: str
    #: How many they are.
    tokens: int
    supervised_tokens: int
    #: The parts of the text that the loss is computed on, in characters; rounded outwards where a token ends inside a
    #: character.
    supervised: list[Span]
    #: These parts, joined.
    supervised_text: str
    #: The token that teaches where to stop; None if it was cut off, or if all of a conversation is learnt.
    stop: str | None
    #: Tokens beyond the longest row, which are left out.
    cut_tokens: int
    #: Their text.
    cut_text: str
    #: As in `Rendering.methods`; None for texts that no template renders.
    method: str | None
    #: Whether the answer is a desirable one, of rows that say it.
    desirable: bool | None = None
    #: The label that a classification learns for the text.
    label: str | None = None


class PreviewTotals(Wire):
    """What a training would make from the whole file."""

    #: Texts made from the rows.
    samples: int
    tokens: int
    supervised_tokens: int
    rows_cut: int
    #: Rows in which the cut leaves nothing to learn.
    rows_dropped: int


class Preview(Wire):
    """Rows as a training would learn them."""

    shape: Literal["prompt", "messages", "text", "text-label", "preference", "unpaired-preference"]
    #: What a training learns from such rows unless it is asked for another objective; None: an earlier release said nothing.
    objective: str | None = None
    loss_on: LearntOn
    #: The labels of a classification, in the order that numbers them.
    labels: list[str] = []
    #: Longest row in tokens: as requested, or the base's positions if those are fewer.
    max_length: int
    #: Rows of the file.
    file_rows: int
    #: None for a file with more rows than are counted.
    totals: PreviewTotals | None
    #: How all rows were rendered, or only those shown if there are no totals.
    rendering: Rendering
    #: Special tokens that the tokenizer puts around every text, and how many of these rows have them already: they get
    #: no second.
    had_special: Annotated[dict[str, int], IF_ANY] = {}
    #: The text of the chat template that rendered them, as it would be stored with a version; None for plain texts.
    template: Annotated[str | None, IF_SET] = None
    #: The texts of the requested rows, in their order.
    rows: list[PreviewText]
    #: How many more texts of these rows don't fit into a job's result.
    left_out: int = 0
