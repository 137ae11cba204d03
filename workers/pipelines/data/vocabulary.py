"""Tokens of a tokenizer without an embedding in the model: a tokenizer may have more words than the embedding has rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdk.schemas.failures import FailureReason
from workers.pipelines.data.examples import Example
from workers.pipelines.data.stored_examples import StoredExamples
from workers.pipelines.errors import PipelineError


def require_embedded(examples: Sequence[Example], tokenizer: Any, *, words: int) -> None:
    """Raise PipelineError ("data") for rows with a token beyond the `words` that the model has an embedding for."""
    if isinstance(examples, StoredExamples):
        largest = examples.largest
    else:
        largest = max((max(example.input_ids, default=0) for example in examples), default=0)
    if largest >= words:
        text = tokenizer.decode([largest])
        raise PipelineError(
            FailureReason.DATA,
            f"The rows have the token {text[:40]!r} ({largest}), which the tokenizer has and the base's embedding of {words} words"
            " does not; leave it out of the rows, or use a base with an embedding for it.",
        )


def embedded(ids: Sequence[int], *, words: int) -> list[int]:
    """Return the tokens that the model has an embedding for, or one token if it has none for any of them."""
    return [token for token in ids if token < words] or [0]


def words_of(model: Any) -> int:
    """Return for how many tokens a model has an embedding."""
    return int(model.get_input_embeddings().weight.shape[0])
