"""The length of the texts that a loss is computed on in bytes of UTF-8, which doesn't depend on the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from workers.pipelines.data.examples import IGNORED, Example

#: How many preceding tokens are decoded together with a text: a character may span several.
_BEFORE = 4


def supervised_bytes(example: Example, tokenizer: Any) -> int:
    """Return the bytes that the supervised tokens of an example add to the text before them; special tokens add none."""
    ids = example.input_ids
    added = 0
    for start, end in _runs(example.labels):
        first = max(0, start - _BEFORE)
        # An incomplete character counts where it is completed.
        before = _text(ids[first:start], tokenizer).rstrip("\ufffd")
        added += _length(_text(ids[first:end], tokenizer)) - _length(before)
    return added


def _runs(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where runs of supervised tokens begin and end."""
    at = 0
    for supervised, run in groupby(label != IGNORED for label in labels):
        start, at = at, at + sum(1 for _ in run)
        if supervised:
            yield start, at


def _text(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
