"""The length of the texts that a loss is computed on in bytes of UTF-8, which doesn't depend on the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from workers.pipelines.data.examples import IGNORED, Example

#: Increased with every change of what is counted; it is recorded with the scores if an earlier count was different. The
#: first releases decoded tokens one by one, where Llama's tokenizers leave out the leading blank.
BYTES_VERSION = 2
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


def counted_otherwise(examples: Iterable[Example], counts: Iterable[int], tokenizer: Any) -> bool:
    """Whether the first releases counted another number of bytes for any of these than the given counts."""
    return any(
        count != _length(_text([label for label in example.labels if label != IGNORED], tokenizer))
        for example, count in zip(examples, counts, strict=True)
    )


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
