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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sdk.formats.rows import Row
from sdk.rows.texts import split_key

#: Different rows with groups that are looked at before a training, in some 500 MB.
MOST_GROUPED = 1_000_000


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
        raise one_part(how)
    seed = how.seed.to_bytes(8, "big")
    order = sorted(sizes, key=lambda part: hashlib.sha256(seed + part[1]).digest())
    most = most_held_out(len(units), how)
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
            raise no_second_row()
        chosen = {smallest}
    return [part in chosen for part in parts]


class Splittable:
    """Takes what decides of each row, `add` by `add`, and says in the end whether any can be held out, as `held_out` does.

    Most files have an answer after a few rows. Of texts and labels it keeps those that differ, and no more than there are labels; of rows with
    groups it keeps all, and beyond `MOST_GROUPED` it gives no answer: the training will. So it will where a later row gives a text that
    had one label another, which no other text has.
    """

    def __init__(self, how: HoldOut) -> None:
        self._how = how
        self._open = True
        #: Units that differ. How often each comes changes nothing: rows may go where each of their labels is in another part, too.
        self._units: dict[Unit, None] = {}
        #: So many of them are looked at next.
        self._next = 2

    def add(self, unit: Unit) -> None:
        """Take the next row."""
        if not self._open or unit in self._units:
            return
        self._units[unit] = None
        if unit.group is not None:
            self._open = len(self._units) <= MOST_GROUPED
        elif len(self._units) == self._next:
            # Further rows join no parts where there are no groups, so what may go may go with them as well, but for further labels of it.
            self._next *= 2
            with suppress(HoldoutError):
                self.require()
                self._open = False
        if not self._open:
            self._units.clear()

    def require(self) -> None:
        """Raise HoldoutError where no row can be held out."""
        if self._open:
            held_out(list(self._units), self._how)


def group_digest(group: str) -> bytes:
    """Return the digest of a group's name."""
    return hashlib.sha256(group.encode("utf-8", "replace")).digest()


def one_part(how: HoldOut) -> HoldoutError:
    """Return that all rows are one part."""
    what = "the same text" if how.by is None else f"in one group of {how.by!a}, or share texts with it"
    return HoldoutError(f"all rows are {what}, so none can be held out of the others; give more rows")


def no_second_row() -> HoldoutError:
    """Return that each part has all rows of a label."""
    return HoldoutError("of no row is there a second one with its label, so that none can be held out; give more rows")


def most_held_out(rows: int, how: HoldOut) -> int:
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
            one, other = find((1, unit.key)), find((0, group_digest(unit.group)))
            leader[max(one, other)] = min(one, other)
    return [find((1, unit.key)) for unit in units]
