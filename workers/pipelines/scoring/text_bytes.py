"""How long the texts are that a loss is taken on, in bytes of UTF-8, which models of other tokenizers have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from workers.pipelines.data.examples import IGNORED, Example

#: Raised with every change of what is counted; it stands with the scores where an earlier count was another one. The first
#: releases decoded the tokens by themselves, of which Llama's tokenizers leave out the blank that they begin with.
BYTES_VERSION = 2
#: Tokens before a text that it is decoded after: a character may be of several.
_BEFORE = 4


def supervised_bytes(example: Example, tokenizer: Any) -> int:
    """Return the bytes that the supervised tokens of an example add to the text before them; special tokens add none."""
    ids = example.input_ids
    added = 0
    for start, end in _runs(example.labels):
        first = max(0, start - _BEFORE)
        # A character that is not whole yet counts where it is.
        before = _text(ids[first:start], tokenizer).rstrip("\ufffd")
        added += _length(_text(ids[first:end], tokenizer)) - _length(before)
    return added


def counted_otherwise(examples: Iterable[Example], counts: Iterable[int], tokenizer: Any) -> bool:
    """Whether the first releases counted other bytes of one of these than the counts of each."""
    return any(
        count != _length(_text([label for label in example.labels if label != IGNORED], tokenizer))
        for example, count in zip(examples, counts, strict=True)
    )


def _runs(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where supervised tokens that follow one another begin and end."""
    at = 0
    for supervised, run in groupby(label != IGNORED for label in labels):
        start, at = at, at + sum(1 for _ in run)
        if supervised:
            yield start, at


def _text(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
