"""Rows of a file that are held out of a training: chosen by a share and a seed, and the same wherever they are chosen.

Rows of one group, and rows that say the same but for case and spaces, are on the same side. Which side follows from the names
of the groups, or else from what the rows say, and not from their order: rows that are added to a file later move few others.
Of each label, rows are left to the training.

>>> rows = [Unit(key) for key in (b"a", b"b", b"b", b"c", b"d")]
>>> held_out(rows, HoldOut(share=0.4))
[False, True, True, False, False]
>>> held_out([Unit(b"a"), Unit(b"a")], HoldOut(share=0.5))
Traceback (most recent call last):
sdk.rows.holdout.HoldoutError: all rows are the same text, so none can be held out of the others; give more rows
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sdk.formats.rows import Row
from sdk.rows.texts import row_digest, split_key

if TYPE_CHECKING:
    import numpy.typing as npt

_PLACE_BYTES, _GROUP_BYTES = 16, 32


class HoldoutError(ValueError):
    """Rows of which none can be held out. The message is a sentence without its end."""


@dataclass(frozen=True)
class HoldOut:
    """Which rows are held out of a training."""

    #: Of the rows, above 0 and below 1.
    share: float
    seed: int = 0
    #: The column whose groups stay together.
    by: str | None = None


class HoldoutOptions(Protocol):
    """The options of a training that say it."""

    @property
    def holdout(self) -> float | None:
        """The share."""

    @property
    def holdout_by(self) -> str | None:
        """The column of groups."""

    @property
    def holdout_seed(self) -> int:
        """Which rows."""


def hold_out_of(spec: HoldoutOptions) -> HoldOut | None:
    """Return what a training holds out of its rows; None if nothing."""
    return None if spec.holdout is None else HoldOut(spec.holdout, spec.holdout_seed, spec.holdout_by)


class Unit(NamedTuple):
    """What decides on which side a row is."""

    #: The digest of its text.
    key: bytes
    group: str | None = None
    #: Of a classification.
    label: str | None = None


#: What rows are a part of: a group (0) by the digest of its name, or a text (1) by its own.
_Part = tuple[int, bytes]


def split_unit(row: Row) -> Unit:
    """Return what decides on which side a row is."""
    return Unit(split_key(row), row.group, row.fields["label"] if row.shape == "text-label" else None)


def held_out(units: Sequence[Unit], how: HoldOut) -> list[bool]:
    """Return for each row, given by `split_unit`, whether it is held out: as near below the share as whole groups allow,
    at least one row on each side, and of each label one in the training. Raises HoldoutError.
    """
    parts = _joined(units)
    sizes = Counter(parts)
    if len(sizes) < 2:
        raise _one_part(how)
    seed = how.seed.to_bytes(8, "big")
    order = sorted(sizes, key=lambda part: hashlib.sha256(seed + part[1]).digest())
    most = _most(len(units), how)
    left = _Left(units, parts)
    chosen: set[_Part] = set()
    rows = 0
    for part in order:
        if rows + sizes[part] <= most and left.take(part):
            chosen.add(part)
            rows += sizes[part]
    if not chosen:
        # Where each group alone is more than the share, the smallest is held out.
        smallest = next((part for part in sorted(order, key=lambda part: sizes[part]) if left.take(part)), None)
        if smallest is None:
            raise HoldoutError(
                "of no row is there a second one with its label, so that none can be held out; give more rows"
            )
        chosen = {smallest}
    return [part in chosen for part in parts]


class Splitter:
    """Takes what decides of each row, `add` by `add`, and says in the end which are held out, as `held_out` does.

    Without labels it takes 16 bytes a row meanwhile, and some 60 at the end; with groups 50, and some 190 to 270. Needs numpy.
    """

    def __init__(self, how: HoldOut) -> None:
        self._how = how
        self._seed = how.seed.to_bytes(8, "big")
        #: The places of texts in the order that they are held out in, of which 128 bits tell all apart.
        self._places = bytearray()
        #: Of rows with groups, 128 bits of the texts' digests, and the digests of the groups' names.
        self._texts, self._groups = bytearray(), bytearray()
        self._units: list[Unit] = []

    def add(self, unit: Unit) -> None:
        """Take the next row."""
        if unit.label is not None:
            self._units.append(unit)
        elif unit.group is not None:
            self._texts += unit.key[:_PLACE_BYTES].ljust(_PLACE_BYTES, b"\0")
            self._groups += _group_digest(unit.group)
        else:
            self._places += hashlib.sha256(self._seed + unit.key).digest()[:_PLACE_BYTES]

    def out(self) -> npt.NDArray[Any]:
        """Return for each row whether it is held out, (rows,) of bool. Raises HoldoutError."""
        import numpy as np

        if self._units:
            return np.array(held_out(self._units, self._how), bool)
        if self._groups:
            return self._out_by_groups()
        places = np.frombuffer(self._places, f"S{_PLACE_BYTES}")
        _, texts, sizes = np.unique(places, return_inverse=True, return_counts=True)
        found: npt.NDArray[Any] = self._chosen(sizes, len(places))[texts.reshape(-1)]
        return found

    def _out_by_groups(self) -> npt.NDArray[Any]:
        import numpy as np

        _, texts = np.unique(np.frombuffer(self._texts, f"S{_PLACE_BYTES}"), return_inverse=True)
        names, groups = np.unique(np.frombuffer(self._groups, f"S{_GROUP_BYTES}"), return_inverse=True)
        parts = _joined_groups(groups.reshape(-1), texts.reshape(-1), len(names))[groups.reshape(-1)]
        # A part is called as its least group; numpy leaves zeros at the end of a name out.
        heads, parts, sizes = np.unique(parts, return_inverse=True, return_counts=True)
        places = bytearray()
        for head in heads:
            places += hashlib.sha256(self._seed + names[head].ljust(_GROUP_BYTES, b"\0")).digest()[:_PLACE_BYTES]
        order = np.argsort(np.frombuffer(places, f"S{_PLACE_BYTES}"), kind="stable")
        chosen = np.zeros(len(order), bool)
        chosen[order] = self._chosen(sizes[order], len(parts))
        found: npt.NDArray[Any] = chosen[parts.reshape(-1)]
        return found

    def _chosen(self, sizes: npt.NDArray[Any], rows_in_all: int) -> npt.NDArray[Any]:
        """Return which parts are held out, (parts,) of bool, by their sizes in the order that they are held out in."""
        import numpy as np

        if len(sizes) < 2:
            raise _one_part(self._how)
        most, rows = _most(rows_in_all, self._how), 0
        chosen = np.zeros(len(sizes), bool)
        for at in range(len(sizes)):
            if rows == most:
                break
            if rows + (size := int(sizes[at])) <= most:
                chosen[at] = True
                rows += size
        if not rows:
            # Where each part alone is more than the share, the smallest is held out.
            chosen[np.argmin(sizes)] = True
        return chosen


def _group_digest(group: str) -> bytes:
    return hashlib.sha256(group.encode("utf-8", "replace")).digest()


def _joined_groups(groups: npt.NDArray[Any], texts: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return for each of `count` groups the least that it shares texts with, over any number of others, (count,); rows are given by the
    numbers of their group and of their text, (rows,) each.
    """
    import numpy as np

    order = np.argsort(texts, kind="stable")
    same = texts[order[1:]] == texts[order[:-1]]
    one, other = groups[order[:-1][same]], groups[order[1:][same]]
    least = np.arange(count)
    while True:
        left, right = least[one], least[other]
        if np.array_equal(left, right):
            return least
        np.minimum.at(least, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(above := least[least], least):
            least = above


def _one_part(how: HoldOut) -> HoldoutError:
    what = "the same text" if how.by is None else f"in one group of {how.by!a}, or share texts with it"
    return HoldoutError(f"all rows are {what}, so none can be held out of the others; give more rows")


def _most(rows: int, how: HoldOut) -> int:
    """Return how many of so many rows are held out at most."""
    return max(1, min(rows - 1, round(how.share * rows)))


class _Left:
    """The rows that each label still has in the training."""

    def __init__(self, units: Sequence[Unit], parts: Sequence[_Part]) -> None:
        self._labels: dict[_Part, Counter[str]] = {}
        self._left: Counter[str] = Counter()
        for unit, part in zip(units, parts, strict=True):
            if unit.label is not None:
                self._labels.setdefault(part, Counter())[unit.label] += 1
                self._left[unit.label] += 1

    def take(self, part: _Part) -> bool:
        """Take a part out of the training, unless a label would have no row left there."""
        labels = self._labels.get(part, Counter())
        if any(self._left[label] <= rows for label, rows in labels.items()):
            return False
        self._left -= labels
        return True


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the SHA-256 over the digests of rows in any order, in hexadecimal."""
    return digest_of_digests(row_digest(row) for row in rows)


def digest_of_digests(digests: Iterable[bytes]) -> str:
    """Return what `rows_digest` does for the rows with these digests. Needs numpy."""
    import numpy as np

    together = bytearray()
    for digest in digests:
        together += digest
    return hashlib.sha256(np.sort(np.frombuffer(together, "S32")).tobytes()).hexdigest()


def _joined(units: Sequence[Unit]) -> list[_Part]:
    """Return for each row what it is a part of: rows of a group, or with a text, are one part, by its least group or else its text."""
    leader: dict[_Part, _Part] = {}

    def find(part: _Part) -> _Part:
        while (above := leader.setdefault(part, part)) != part:
            # Shortens the way for the next.
            leader[part] = leader[above]
            part = above
        return part

    for unit in units:
        if unit.group is not None:
            one, other = find((1, unit.key)), find((0, _group_digest(unit.group)))
            leader[max(one, other)] = min(one, other)
    return [find((1, unit.key)) for unit in units]
