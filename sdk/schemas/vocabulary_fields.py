"""Which tokens are added to the vocabulary, as trainings, their records and previews say it."""

from __future__ import annotations

from typing import Annotated, Any

from sdk.formats.added_tokens import parse_tokens
from sdk.schemas.option_types import AddedTokens, Option
from sdk.schemas.wire import IF_SET, Wire


class VocabularyFields(Wire):
    """The options of a training that say which tokens texts are read in."""

    #: Tokens that are added to the vocabulary, as a file with one on each line, or with commas. Their rows of the input
    #: embedding, and of a head that is not tied to it, are trained; they begin at the mean of the base's rows.
    add_tokens: Annotated[
        AddedTokens | None,
        IF_SET,
        Option(
            "Tokens to add to the vocabulary, and to train.",
            metavar="FILE|TOKEN,…",
            kept=True,
            planned=True,
            of_loss=True,
            of_rows=True,
        ),
    ] = None

    @property
    def of_vocabulary(self) -> dict[str, Any]:
        """Those of these options that are given, by name."""
        return self.model_dump(include=set(VocabularyFields.model_fields))

    @property
    def added(self) -> list[str]:
        """The tokens that are added to the vocabulary, in the order of their ids."""
        return [] if self.add_tokens is None else parse_tokens(self.add_tokens)
