"""Examples in a file: a training has only one batch of its rows in memory, however many there are."""

from __future__ import annotations

import heapq
import itertools
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from workers.pipelines.data.examples import IGNORED, Example

#: For each example: where its numbers begin in the other file, how many of them are tokens and how many labels
#: (`_WHERE`: bits for the tokens that are labels), the token that ends it or -1, its row, and whether it is desirable or -1.
_ENTRY = np.dtype(
    [("start", "<u8"), ("tokens", "<u4"), ("labels", "<u4"), ("stop", "<i4"), ("row", "<u4"), ("desirable", "<i1")]
)
_NUMBER = np.dtype("<i4")
#: If all labels equal their tokens, there is a bit for each token instead, in integers: set if it is learnt.
_WHERE = 2**32 - 1
#: How many entries, and bytes of tokens and labels, are read at once when reading all of them.
_CHUNK_ENTRIES, _CHUNK_BYTES = 4096, 1 << 22


class StoredExamples(Sequence[Example]):
    """What a training needs of its examples, in two files without a name: 4.1 bytes per token and 25 per example.

    Their texts and prompts are left out.
    """

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self._numbers, self._entries = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        for file in (self._numbers, self._entries):
            weakref.finalize(self, _close, file)
        self._written = self._count = 0
        #: The number of tokens that the loss is computed on, of all tokens, the largest token id, and the length of the
        #: longest example.
        self.supervised_tokens = self.tokens = self.largest = self.longest = 0
        for example in examples:
            self.append(example)

    def append(self, example: Example) -> None:
        """Append an example."""
        tokens, labels = np.array(example.input_ids, _NUMBER), np.array(example.labels, _NUMBER)
        where = _where(tokens, labels)
        numbers = np.concatenate([tokens, labels if where is None else where])
        stop = -1 if example.stop is None else example.stop
        desirable = -1 if example.desirable is None else example.desirable
        entry = (self._written, len(tokens), len(labels) if where is None else _WHERE, stop, example.row, desirable)
        self._numbers.write(numbers.tobytes())
        self._entries.write(np.array(entry, _ENTRY).tobytes())
        self._written += len(numbers)
        self._count += 1
        self.tokens += len(example.input_ids)
        self.longest = max(self.longest, len(example.input_ids))
        self.supervised_tokens += example.supervised_tokens
        self.largest = max(self.largest, *example.input_ids)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        (entry,) = self._read_entries(place, place + 1)
        return _example(entry, self._read_numbers(entry, entry), int(entry["start"]))

    def __iter__(self) -> Iterator[Example]:
        for first in range(0, len(self), _CHUNK_ENTRIES):
            entries = self._read_entries(first, min(len(self), first + _CHUNK_ENTRIES))
            for begin, end in _parts(entries):
                numbers, start = self._read_numbers(entries[begin], entries[end - 1]), int(entries["start"][begin])
                for entry in entries[begin:end]:
                    yield _example(entry, numbers, start)

    def lengths(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the numbers of tokens of the examples in blocks, each (examples,) of uint32."""
        for first in range(0, len(self), _CHUNK_ENTRIES):
            yield self._read_entries(first, min(len(self), first + _CHUNK_ENTRIES))["tokens"]

    def _read_entries(self, first: int, end: int) -> npt.NDArray[Any]:
        self._entries.flush()
        size = _ENTRY.itemsize
        return np.frombuffer(os.pread(self._entries.fileno(), (end - first) * size, first * size), _ENTRY)

    def _read_numbers(self, first: Any, last: Any) -> npt.NDArray[Any]:
        """Return the tokens and labels of a range of entries."""
        self._numbers.flush()
        size, start = _NUMBER.itemsize, int(first["start"])
        count = int(last["start"]) + int(last["tokens"]) + _numbers_of_labels(last) - start
        return np.frombuffer(os.pread(self._numbers.fileno(), count * size, start * size), _NUMBER)


def _close(file: IO[bytes]) -> None:
    # What could not be written because the disk was full is no longer needed.
    with suppress(OSError):
        file.close()


def lengths_of(examples: Sequence[Example]) -> npt.NDArray[Any]:
    """Return how many tokens each example has, (examples,) of integers: 4 bytes each, so only for as many as are scored
    at a time.
    """
    return np.fromiter(_lengths(examples), np.uint32, len(examples))


def first_lengths_of(examples: Sequence[Example], count: int) -> list[int]:
    """Return the total number of tokens of the first examples."""
    return list(itertools.islice(_lengths(examples), count))


def longest_of(examples: Sequence[Example]) -> int:
    """Return how many tokens the longest example has."""
    return examples.longest if isinstance(examples, StoredExamples) else max(_lengths(examples))


def shortest_of(examples: Sequence[Example], count: int) -> list[Example]:
    """Return the shortest examples; of equally long ones the first."""
    found = heapq.nsmallest(count, zip(_lengths(examples), range(len(examples)), strict=True))
    return [examples[at] for _, at in found]


def longest_examples(examples: Sequence[Example], count: int) -> list[Example]:
    """Return the longest examples, the longest first; of equally long ones the first."""
    found = heapq.nsmallest(count, ((-length, at) for at, length in enumerate(_lengths(examples))))
    return [examples[at] for _, at in found]


def _lengths(examples: Sequence[Example]) -> Iterator[int]:
    if isinstance(examples, StoredExamples):
        for some in examples.lengths():
            yield from some.tolist()
    else:
        yield from (len(example.input_ids) for example in examples)


def _example(entry: Any, numbers: npt.NDArray[Any], start: int) -> Example:
    """Return the example of an entry; `numbers` begin at the offset `start`."""
    first = int(entry["start"]) - start
    middle = first + int(entry["tokens"])
    stop, desirable = int(entry["stop"]), int(entry["desirable"])
    tokens, labels = numbers[first:middle], numbers[middle : middle + _numbers_of_labels(entry)]
    if int(entry["labels"]) == _WHERE:
        learnt = np.unpackbits(labels.view(np.uint8), count=len(tokens))
        labels = np.where(learnt, tokens, IGNORED)
    return Example(
        tokens.tolist(),
        labels.tolist(),
        [],
        "",
        "",
        None if stop < 0 else stop,
        row=int(entry["row"]),
        desirable=None if desirable < 0 else bool(desirable),
    )


def _where(tokens: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return a bit for each token, in integers; None if some labels are neither the token itself nor ignored."""
    if tokens.shape != labels.shape:
        return None
    learnt = labels != IGNORED
    if not np.array_equal(labels[learnt], tokens[learnt]):
        return None
    bits = np.packbits(learnt)
    return np.pad(bits, (0, -len(bits) % _NUMBER.itemsize)).view(_NUMBER)


def _numbers_of_labels(entry: Any) -> int:
    count = int(entry["labels"])
    return count if count != _WHERE else -(-int(entry["tokens"]) // (8 * _NUMBER.itemsize))


def _parts(entries: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield [begin, end) of entries whose tokens and labels fit into memory, or of a single entry."""
    begin = 0
    while begin < len(entries):
        room = int(entries["start"][begin]) + _CHUNK_BYTES // _NUMBER.itemsize
        end = max(begin + 1, int(np.searchsorted(entries["start"], room)))
        yield begin, end
        begin = end
