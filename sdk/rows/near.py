"""Rows that are nearly the same: those that share keys of least hashes are looked up, then their texts are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sdk.rows.grams import jaccard
from sdk.rows.spool import Column, TextSpool, equal_rows

if TYPE_CHECKING:
    import numpy.typing as npt

#: Texts are nearly the same if the Jaccard index of their words, or of their 13-grams, is at least this.
NEAR = 0.8
#: At most how many characters are compared, for each character of the file and in addition to that, and how many
#: candidates are kept of one band: if all rows of a file are alike, nearly every pair is a candidate.
_COMPARED_PER_CHARACTER, _COMPARED_CHARACTERS = 2, 50_000_000
_MOST_CANDIDATES = 300_000
_ROW_BITS = 32


class NearPair(NamedTuple):
    """A row, and an earlier one that it is nearly the same as."""

    first: int
    row: int
    jaccard: float


class NearRows(NamedTuple):
    """All pairs that were found, in the order of the rows."""

    pairs: list[NearPair]
    #: Whether all candidates were compared.
    complete: bool


def near_rows(
    bands: Sequence[Column],
    texts: TextSpool,
    alive: npt.NDArray[Any],
    *,
    characters: int,
    apart: Callable[[int, int], bool],
    on_step: Callable[[int], object],
) -> NearRows:
    """Return the rows that are nearly the same as an earlier one, among those that are `alive`, (rows,) of bool.

    `characters` is how many all rows have together. Two rows that are `apart` are not reported, however alike they are.
    `on_step` is called after each step with the number of steps.
    """
    import numpy as np

    complete = True
    most_compared = _COMPARED_CHARACTERS + _COMPARED_PER_CHARACTER * characters
    found: list[npt.NDArray[Any]] = []
    for band in bands:
        pairs = np.concatenate([*_candidates(band, alive), np.empty(0, np.uint64)])
        pairs = np.unique(pairs)
        complete &= len(pairs) <= _MOST_CANDIDATES
        found.append(pairs[:_MOST_CANDIDATES])
        on_step(len(bands) + 1)
    pairs, shared = np.unique(np.concatenate(found), return_counts=True) if found else (np.empty(0, np.uint64), None)
    near: dict[int, NearPair] = {}
    compared = 0
    # Pairs that share the most bands come first: they are the likeliest.
    for pair in pairs[np.argsort(-shared, kind="stable")].tolist() if shared is not None else ():
        first, row = pair >> _ROW_BITS, pair & ((1 << _ROW_BITS) - 1)
        if row in near:
            continue
        if compared > most_compared:
            complete = False
            break
        one, other = texts.at(first), texts.at(row)
        compared += len(one) + len(other)
        if (index := jaccard(one, other)) >= NEAR and not apart(first, row):
            near[row] = NearPair(first, row, index)
    on_step(len(bands) + 1)
    return NearRows([near[row] for row in sorted(near)], complete)


def _candidates(band: Column, alive: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield pairs of rows as first · 2^32 + row, (n,) of uint64."""
    import numpy as np

    for equal in equal_rows(band, alive):
        for earlier in (equal.first, equal.previous):
            yield (earlier.astype(np.uint64) << np.uint64(_ROW_BITS)) | equal.row.astype(np.uint64)
