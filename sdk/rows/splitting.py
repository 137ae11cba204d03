"""Which rows are held out of a training, however many there are: the data is in scratch files.

>>> splitter = Splitter(HoldOut(share=0.4))
>>> for key in (b"a", b"b", b"b", b"c", b"d"):
...     splitter.add(Unit(key))
>>> splitter.out().tolist()
[False, True, True, False, False]
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sdk.formats.rows import Row
from sdk.rows.holdout import Unit, group_digest, most_held_out, no_second_row, one_part
from sdk.rows.sorting import Part, SortedKeys
from sdk.rows.texts import row_digest
from sdk.schemas.held_out import HoldOut

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many bytes are kept of the digest of a text, of which 128 bits tell all apart; of a group's name, of which the
#: least decides; and of all fields of a row.
_PLACE_BYTES, _GROUP_BYTES, _ROW_BYTES = 16, 32, 32
#: How many digests are handed on at once, and how many rows are looked at.
_BATCH = 1 << 14
_CHUNK = 1 << 17


class Splitter:
    """Takes the unit of each row by `add`, and says at the end which rows are held out.

    It takes 20 bytes a row in scratch files, or 76 with groups. In memory it takes one byte a row at the end, 4 more
    with labels, and with groups 4 more and some 30 for each group. Needs numpy.
    """

    def __init__(self, how: HoldOut) -> None:
        self._how = how
        self._seed = how.seed.to_bytes(8, "big")
        self._rows = 0
        #: The texts by their places in the order in which they are held out; if rows have groups, by their digests.
        self._texts = _Digests(_PLACE_BYTES)
        self._groups = _Digests(_GROUP_BYTES)
        self._grouped = False
        #: The number of each label, and for each row the number of its label.
        self._numbers: dict[str, int] = {}
        self._labels = array("I")

    def add(self, unit: Unit) -> None:
        """Take the next row; either all rows have groups or none has, and the same goes for labels."""
        self._rows += 1
        if unit.label is not None:
            self._labels.append(self._numbers.setdefault(unit.label, len(self._numbers)))
        if unit.group is None:
            self._texts.append(hashlib.sha256(self._seed + unit.key).digest())
        else:
            self._grouped = True
            self._texts.append(unit.key)
            self._groups.append(group_digest(unit.group))

    def out(self) -> npt.NDArray[Any]:
        """Return for each row whether it is held out, (rows,) of bool. Raises HoldoutError."""
        import numpy as np

        out = np.zeros(self._rows, bool)
        left = _Left(self._labels)
        most, held, parts = most_held_out(self._rows, self._how), 0, 0
        smallest = None
        for rows in _by_key(self._by_groups() if self._grouped else self._texts.sorted()):
            parts += 1
            if held == most:
                break
            if held + len(rows) <= most and left.take(rows):
                out[rows] = True
                held += len(rows)
            elif not held and (smallest is None or len(rows) < len(smallest)) and left.may_go(rows):
                smallest = rows
        if parts < 2:
            raise one_part(self._how)
        if not held:
            # No part that may go fits into the share: the smallest of them is held out.
            if smallest is None:
                raise no_second_row()
            out[smallest] = True
        return out

    def _by_groups(self) -> Iterator[Part]:
        """Yield the places of the parts that rows belong to, with the rows: groups that share texts, directly or
        through others, are one part.
        """
        import numpy as np

        groups = np.zeros(self._rows, np.uint32)
        with tempfile.TemporaryFile() as names:
            count = 0
            for keys, rows, new in _new(self._groups.sorted()):
                groups[rows] = count + np.cumsum(new, dtype=np.int64) - 1
                names.write(keys[new].tobytes())
                count += int(new.sum())
            least = np.arange(count, dtype=np.uint32)
            before = None
            for _, rows, new in _new(self._texts.sorted()):
                found = groups[rows] if before is None else np.concatenate([[before], groups[rows]])
                same = ~(new if before is not None else new[1:])
                _join(least, found[:-1][same], found[1:][same])
                before = groups[rows[-1]]
            places = np.zeros(count, f"S{_PLACE_BYTES}")
            names.seek(0)
            for group in range(count):
                name = names.read(_GROUP_BYTES)
                # A part goes by its least group.
                if least[group] == group:
                    places[group] = hashlib.sha256(self._seed + name).digest()[:_PLACE_BYTES]
        parts = SortedKeys(f"S{_PLACE_BYTES}")
        for first in range(0, self._rows, _CHUNK):
            some = groups[first : first + _CHUNK]
            parts.append(places[least[some]], np.arange(first, first + len(some)))
        del groups, least, places
        yield from parts.sorted()


class _Left:
    """How many rows each label still has in the training; if rows have no labels, all may go."""

    def __init__(self, labels: array[int]) -> None:
        import numpy as np

        #: (rows,) the number of each row's label, and (labels,) how many rows each label has left.
        self._labels = np.frombuffer(labels, np.uintc)
        self._left = np.zeros(max(labels, default=0) + 1, np.int64)
        for first in range(0, len(labels), _CHUNK):
            # In chunks, because bincount makes a copy with 8 bytes for each row.
            self._left += np.bincount(self._labels[first : first + _CHUNK], minlength=len(self._left))

    def take(self, rows: npt.NDArray[Any]) -> bool:
        """Take rows out of the training, unless a label would have none left there."""
        return self._go(rows, taken=True)

    def may_go(self, rows: npt.NDArray[Any]) -> bool:
        """Return whether `take` would take these rows."""
        return self._go(rows, taken=False)

    def _go(self, rows: npt.NDArray[Any], *, taken: bool) -> bool:
        import numpy as np

        if not len(self._labels):
            return True
        labels, times = np.unique(self._labels[rows], return_counts=True)
        if (self._left[labels] <= times).any():
            return False
        if taken:
            self._left[labels] -= times
        return True


class _Digests:
    """The digests of one row after another; only their first bytes are kept."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._keys = SortedKeys(f"S{size_bytes}")
        self._batch = bytearray()
        self._rows = 0

    def append(self, digest: bytes) -> None:
        """Take the digest of the next row."""
        self._batch += digest[: self._size].ljust(self._size, b"\0")
        if len(self._batch) == _BATCH * self._size:
            self._hand_on()

    def sorted(self) -> Iterator[Part]:
        """Yield the digests in sorted order, each with its row."""
        self._hand_on()
        return self._keys.sorted()

    def _hand_on(self) -> None:
        import numpy as np

        found = np.frombuffer(bytes(self._batch), f"S{self._size}")
        self._keys.append(found, np.arange(self._rows, self._rows + len(found)))
        self._rows += len(found)
        self._batch.clear()


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the SHA-256 over the digests of rows in any order, in hexadecimal. Needs numpy."""
    digests = _Digests(_ROW_BYTES)
    for row in rows:
        digests.append(row_digest(row))
    return digest_of_sorted(keys for keys, _ in digests.sorted())


def digest_of_sorted(digests: Iterable[npt.NDArray[Any]]) -> str:
    """Return what `rows_digest` returns for the rows with these digests, which are sorted, (n,) of 32 bytes each."""
    found = hashlib.sha256()
    for some in digests:
        found.update(some.tobytes())
    return found.hexdigest()


def _new(parts: Iterable[Part]) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield keys and rows as they come, and which of the keys differ from the one before, (n,) of bool."""
    import numpy as np

    before = None
    for keys, rows in parts:
        new = np.ones(len(keys), bool)
        new[1:] = keys[1:] != keys[:-1]
        new[0] = before is None or keys[0] != before
        before = keys[-1]
        yield keys, rows, new


def _by_key(parts: Iterable[Part]) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows of each key, in the order of the keys."""
    import numpy as np

    held: list[npt.NDArray[Any]] = []
    for _, rows, new in _new(parts):
        begins = np.flatnonzero(new)
        held.append(rows[: begins[0] if len(begins) else len(rows)])
        for begin, end in itertools.pairwise([*begins.tolist(), len(rows)]):
            if found := _together(held):
                yield from found
            held = [rows[begin:end]]
    yield from _together(held)


def _together(pieces: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    import numpy as np

    found = pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint32), *pieces])
    return [found] if len(found) else []


def _join(least: npt.NDArray[Any], one: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
    """Join pairs of groups, (n,) each; `least`, (groups,), is the least group that each is joined with, directly or
    through others.
    """
    import numpy as np

    while True:
        left, right = least[one], least[other]
        if np.array_equal(left, right):
            return
        np.minimum.at(least, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(above := least[least], least):
            least[:] = above
