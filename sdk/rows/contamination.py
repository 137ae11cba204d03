"""Which rows of one file are among those of another, found by the signatures of both alone.

A row is near another if `SHARE` of its kept hashes are among those of that one row. This finds 99 in 100 pairs of texts
whose 13-grams have a Jaccard index of 0.8 or more. A hash that very many rows have, such as one of an instruction that
they all begin with, counts as shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sdk.rows.signature_file import SignatureFile

if TYPE_CHECKING:
    import numpy.typing as npt

#: The share of a row's kept hashes. The least hashes are a sample, and a change to the text moves some of them: 0.8
#: would miss 1 in 10 pairs with an index of 0.8.
SHARE = 0.75
#: A hash that more rows than this have says nothing about any one of them.
_MANY_ROWS = 32
#: About how many pairs of rows are counted at once.
_PAIRS = 1 << 22


class Among(NamedTuple):
    """Which rows were found, (rows,) of bool each, in the order of the file; each row is in at most one of these."""

    exact: npt.NDArray[Any]
    normalised: npt.NDArray[Any]
    near: npt.NDArray[Any]


def rows_among(held: SignatureFile, training: Iterable[SignatureFile]) -> Among:
    """Return which rows of `held` are among the rows of any of the others."""
    import numpy as np

    exact, normalised, near = (np.zeros(held.rows, bool) for _ in range(3))
    for one in training:
        exact[held.exact_rows[_found(held.exact, one.exact)]] = True
        normalised[held.normalised_rows[_found(held.normalised, one.normalised)]] = True
        _mark_near(near, held, one)
    # Only the first row with a text has its grams; the other rows with the same text are just as near.
    near[held.normalised_rows] |= near[_first_with_the_text(held)]
    normalised &= ~exact
    return Among(exact, normalised, near & ~exact & ~normalised)


def _found(keys: npt.NDArray[Any], among: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return which of the sorted `keys` are in `among`, which is sorted too."""
    import numpy as np

    if not len(among):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(among, keys), len(among) - 1)
    found: npt.NDArray[Any] = among[places] == keys
    return found


def _first_with_the_text(held: SignatureFile) -> npt.NDArray[Any]:
    """Return for each row, in the order of the hashes of normalised texts, the first row with the same text."""
    import numpy as np

    new = np.ones(held.rows, bool)
    new[1:] = held.normalised[1:] != held.normalised[:-1]
    begins = np.flatnonzero(new)
    # Rows with the same hash are in the order of the file.
    return held.normalised_rows[np.repeat(begins, np.diff(np.append(begins, held.rows)))]


def _mark_near(near: npt.NDArray[Any], held: SignatureFile, training: SignatureFile) -> None:
    """Mark the rows of `held` that are near a row of `training`."""
    import numpy as np

    sizes = np.bincount(held.gram_rows, minlength=held.rows)
    needed = np.ceil(SHARE * sizes)
    there = np.flatnonzero(_found(held.grams, training.grams))
    keys, owners = held.grams[there], held.gram_rows[there].astype(np.int64)
    hopeful = np.bincount(owners, minlength=held.rows) >= needed
    hopeful &= (sizes > 0) & ~near
    keys, owners = keys[hopeful[owners]], owners[hopeful[owners]]
    begins = np.searchsorted(training.grams, keys)
    counts = np.searchsorted(training.grams, keys, side="right") - begins
    many = counts > _MANY_ROWS
    everywhere = np.bincount(owners[many], minlength=held.rows)
    near |= hopeful & (everywhere >= needed)
    order = np.flatnonzero(~many & ~near[owners])
    order = order[np.argsort(owners[order], kind="stable")]
    owners, begins, counts = owners[order], begins[order], counts[order]
    for part in _parts(owners, counts):
        one, count = owners[part], counts[part]
        places = np.repeat(begins[part] - np.cumsum(count) + count, count) + np.arange(count.sum())
        pairs, shared = np.unique(np.repeat(one, count) << 32 | training.gram_rows[places], return_counts=True)
        rows = pairs >> 32
        near[rows[shared + everywhere[rows] >= needed[rows]]] = True


def _parts(owners: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Iterable[slice]:
    """Yield slices of about `_PAIRS` pairs each, none of which divides the pairs of an owner; owners are sorted."""
    import numpy as np

    ends = np.append(np.flatnonzero(owners[1:] != owners[:-1]) + 1, len(owners)) if len(owners) else np.zeros(0, int)
    pairs = np.cumsum(counts)
    begin = 0
    while begin < len(owners):
        done = pairs[begin - 1] if begin else 0
        place = int(np.searchsorted(pairs[ends - 1], done + _PAIRS, side="right"))
        following = int(np.searchsorted(ends, begin, side="right"))
        end = int(ends[min(max(place - 1, following), len(ends) - 1)])
        yield slice(begin, end)
        begin = end
