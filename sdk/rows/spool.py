"""Numbers of each row in files of a scratch folder, so that memory does not grow with the rows.

Equal numbers are found part by part: a part has the keys with the same remainder, a few hundred thousand of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy.typing as npt

#: About how many keys are in memory at once.
_PART_ROWS = 1 << 18
_CHUNK_ROWS = 1 << 17


class Column:
    """One number for each row, in a file that is appended to; 0 stands for none."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        import numpy as np

        self._path = folder / name
        self._dtype = np.dtype(dtype)
        self._file = self._path.open("w+b", buffering=1 << 16)
        self.rows = 0

    def append(self, values: npt.NDArray[Any] | Sequence[int]) -> None:
        """Add the numbers of further rows."""
        import numpy as np

        found = np.asarray(values, self._dtype)
        self._file.write(found.tobytes())
        self.rows += len(found)

    def chunks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield all numbers in chunks, each with the row that its first number belongs to."""
        for first in range(0, self.rows, _CHUNK_ROWS):
            yield first, self.between(first, first + _CHUNK_ROWS)

    def between(self, first: int, end: int) -> npt.NDArray[Any]:
        """Return the numbers of the rows from `first` to before `end`."""
        import numpy as np

        self._file.flush()
        size = self._dtype.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), max(0, end - first) * size, first * size), self._dtype)

    def at(self, row: int) -> int:
        """Return the number of one row."""
        return int(self.between(row, row + 1)[0])

    def close(self) -> None:
        """Close the file; whoever made the folder removes it."""
        self._file.close()


class EqualKeys(NamedTuple):
    """Rows with a key that an earlier row has too, (n,) each, sorted by key and then by row.

    `first` is the first row with the key, and `previous` the last one before `row`.
    """

    first: npt.NDArray[Any]
    previous: npt.NDArray[Any]
    row: npt.NDArray[Any]


def equal_rows(column: Column, alive: npt.NDArray[Any] | None = None) -> Iterator[EqualKeys]:
    """Yield, in parts, the rows whose number an earlier row has too. If `alive`, (rows,) of bool, is given, only these
    rows count.
    """
    import numpy as np

    parts = max(1, -(-column.rows // _PART_ROWS))
    for part in range(parts):
        keys, rows = [], []
        for first, chunk in column.chunks():
            kept = (chunk != 0) & (chunk % np.asarray(parts, chunk.dtype) == part)
            if alive is not None:
                kept &= alive[first : first + len(chunk)]
            keys.append(chunk[kept])
            rows.append(np.flatnonzero(kept) + first)
        if not keys:
            continue
        key, row = np.concatenate(keys), np.concatenate(rows)
        order = np.argsort(key, kind="stable")
        key, row = key[order], row[order]
        again = np.flatnonzero(key[1:] == key[:-1]) + 1
        begins = np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1])
        leader = begins[np.searchsorted(begins, again, side="right") - 1]
        yield EqualKeys(row[leader], row[again - 1], row[again])


def matches(column: Column, keys: npt.NDArray[Any], alive: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Return for each of the `keys` the first row that has it, (keys,) of int64; -1 for none. If `alive`, (rows,) of
    bool, is given, only these rows count.
    """
    import numpy as np

    found = np.full(len(keys), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    known, places = np.unique(keys[order], return_index=True)
    if not len(known):
        return found
    firsts = np.full(len(known), -1, np.int64)
    for first, chunk in column.chunks():
        at = np.minimum(np.searchsorted(known, chunk), len(known) - 1)
        there = (known[at] == chunk) & (chunk != 0)
        hit = np.flatnonzero(there if alive is None else there & alive[first : first + len(chunk)])
        # In reverse order: of several rows with one key the last one written stays, and that is the first row.
        new = hit[firsts[at[hit]] < 0][::-1]
        firsts[at[new]] = new + first
    counts = np.diff(np.append(places, len(keys)))
    found[order] = np.repeat(firsts, counts)
    return found


class TextSpool:
    """Texts in a file, from which single ones can be read again."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}.txt").open("w+b", buffering=1 << 20)
        self._ends = Column(folder, f"{name}.ends", "u8")
        self._size = 0

    def append(self, texts: Sequence[str]) -> None:
        """Add texts."""
        ends = []
        for text in texts:
            encoded = text.encode()
            self._file.write(encoded)
            self._size += len(encoded)
            ends.append(self._size)
        self._ends.append(ends)

    def at(self, row: int) -> str:
        """Return the text of a row."""
        self._file.flush()
        start = self._ends.at(row - 1) if row else 0
        return os.pread(self._file.fileno(), self._ends.at(row) - start, start).decode()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._ends.close()
