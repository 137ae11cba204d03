"""The first rows of a training, as it saw them: recorded with its job, for whoever may read its dataset.

>>> piece = SeenPiece(first_token=0, text="2 + 2 = 4</s>", tokens=6, supervised=[[7, 13]])
>>> piece.parts()
[('2 + 2 =', False), (' 4</s>', True)]
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdk.formats.objectives import LearntOn
from sdk.schemas.preview import Span
from sdk.schemas.wire import IF_SET, Sha256, Wire

#: How many rows are recorded, and how many texts these become: a preference has two.
MOST_SEEN_ROWS = 20
_MOST_TEXTS = 2 * MOST_SEEN_ROWS
#: The longest record as JSON, and that of a member of a sweep, of which there may be a thousand.
MOST_SEEN_BYTES, MOST_MEMBER_BYTES = 64_000, 8_000
_MOST_SPANS = 4096
_Count = Annotated[int, Field(ge=0, le=2**53)]


class SeenPiece(Wire):
    """Tokens of a text that follow one another, decoded."""

    #: The place of the first of them in the text, from 0.
    first_token: _Count
    #: How many they are.
    tokens: _Count
    text: str
    #: The parts of this piece that the loss is computed on, in characters; rounded outwards where a token ends inside a
    #: character.
    supervised: Annotated[list[Span], Field(max_length=_MOST_SPANS)] = []

    def parts(self) -> list[tuple[str, bool]]:
        """Return the piece in parts, each with whether the loss is computed on it."""
        found, last = [], 0
        for start, end in self.supervised:
            found += [(self.text[last:start], False), (self.text[start:end], True)]
            last = end
        return [part for part in (*found, (self.text[last:], False)) if part[0]]

    @model_validator(mode="after")
    def _spans_are_in_it(self) -> SeenPiece:
        ends = [0, *(end for span in self.supervised for end in span), len(self.text)]
        if ends != sorted(ends):
            raise ValueError("the supervised parts are not in their order, or not within the text")
        return self


class SeenText(Wire):
    """One text that a training learnt from: what was left of it after it was cut."""

    #: How messages refer to its row: "line 7" or "row 7", with the file's name if there are several.
    where: Annotated[str, Field(max_length=400)]
    #: The step that saw it first, from 1.
    step: Annotated[int, Field(ge=1)]
    tokens: _Count
    supervised_tokens: _Count
    #: All of it, or of a long one its beginning, and what is around the first token that the loss is computed on.
    pieces: Annotated[list[SeenPiece], Field(min_length=1, max_length=2)]
    #: The token that teaches where to stop; None if it was cut off, or if all of a conversation is learnt.
    stop: Annotated[str | None, Field(max_length=400)] = None
    #: Which answer of a preference it is.
    answer: Annotated[Literal["chosen", "rejected"] | None, IF_SET] = None
    #: Whether the answer is a desirable one, of rows that say it.
    desirable: Annotated[bool | None, IF_SET] = None
    #: The label that a classification learns for it.
    label: Annotated[str | None, Field(max_length=4000), IF_SET] = None

    @property
    def left_out_tokens(self) -> int:
        """How many of its tokens are in no piece."""
        return self.tokens - sum(piece.tokens for piece in self.pieces)

    @model_validator(mode="after")
    def _pieces_are_of_it(self) -> SeenText:
        ends = [0, *(end for each in self.pieces for end in (each.first_token, each.first_token + each.tokens))]
        if [*ends, self.tokens] != sorted([*ends, self.tokens]):
            raise ValueError("the pieces are not in their order, or not within the tokens")
        return self


class TrainingRows(Wire):
    """The first rows of a training, in the order in which its steps took them."""

    loss_on: LearntOn
    #: How many rows an epoch has.
    rows: Annotated[int, Field(ge=1)]
    texts: Annotated[list[SeenText], Field(min_length=1, max_length=_MOST_TEXTS)]


class TrainingRowsView(Wire):
    """What a registry has recorded of the rows of the training that made a version."""

    ref: str
    digest: Sha256
    #: The training.
    job: str
    #: The digests of its datasets.
    datasets: list[Sha256]
    recorded: TrainingRows
    created_at: datetime
