"""Rows of a file that are held out of a training: chosen by a share and a seed, and the same wherever they are chosen.

Rows of one group, and rows that say the same except for case and spaces, are on the same side. Which side that is
follows from the names of the groups, or else from what the rows say, and not from their order: rows that are added to a
file later move few others. Each label keeps rows in the training.

>>> splittable = Splittable(HoldOut(share=0.5))
>>> for key in (b"a", b"a"):
...     splittable.add(Unit(key))
>>> splittable.require()
Traceback (most recent call last):
sdk.rows.holdout.HoldoutError: all rows are the same text, so none can be held out of the others; give more rows
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from sdk.formats.rows import Row
from sdk.rows.texts import split_key
from sdk.schemas.held_out import HoldOut

#: How many different rows with groups are looked at before a training; they take some 500 MB of memory.
MOST_GROUPED = 1_000_000


class HoldoutError(ValueError):
    """None of the rows can be held out. The message is a sentence without a full stop."""


class Unit(NamedTuple):
    """What decides which side of the split a row is on."""

    #: The digest of its text.
    key: bytes
    group: str | None = None
    #: Its label, if it has one.
    label: str | None = None


#: Rows that stay together: a group (0) by the digest of its name, or a text (1) by its own digest.
_Part = tuple[int, bytes]


def split_unit(row: Row) -> Unit:
    """Return what decides which side of the split a row is on."""
    return Unit(split_key(row), row.group, row.label)


class Splittable:
    """Takes the unit of each row by `add`, and says at the end whether any row can be held out; `Splitter` says which.

    For most files the answer is known after a few rows. It keeps different texts and labels, about as many as there are
    labels. Of rows with groups it keeps all that differ; beyond `MOST_GROUPED` it gives no answer, which is left to the
    training. The training also finds out if a later row gives an earlier text another label, which no other text has.
    """

    def __init__(self, how: HoldOut) -> None:
        self._how = how
        self._open = True
        #: The different units. How often each occurs makes no difference: a part may go if each of its labels is in
        #: another part too.
        self._units: dict[Unit, None] = {}
        #: The number of units at which the answer is tried next.
        self._next = 2

    def add(self, unit: Unit) -> None:
        """Take the next row."""
        if not self._open or unit in self._units:
            return
        self._units[unit] = None
        if unit.group is not None:
            self._open = len(self._units) <= MOST_GROUPED
        elif len(self._units) == self._next:
            # Without groups, later rows join no parts, so a part that may go now may still go with them, unless they
            # add labels to it.
            self._next *= 2
            with suppress(HoldoutError):
                self.require()
                self._open = False
        if not self._open:
            self._units.clear()

    def require(self) -> None:
        """Raise HoldoutError if no row can be held out."""
        if not self._open:
            return
        labels: dict[_Part, set[str]] = {}
        for unit, part in zip(self._units, _joined(self._units), strict=True):
            labels.setdefault(part, set()).update([] if unit.label is None else [unit.label])
        if len(labels) < 2:
            raise one_part(self._how)
        parts = Counter(label for each in labels.values() for label in each)
        if all(any(parts[label] == 1 for label in each) for each in labels.values()):
            raise no_second_row()


def group_digest(group: str) -> bytes:
    """Return the digest of a group's name."""
    return hashlib.sha256(group.encode("utf-8", "replace")).digest()


def one_part(how: HoldOut) -> HoldoutError:
    """Return the error that all rows are one part."""
    what = "the same text" if how.by is None else f"in one group of {how.by!a}, or share texts with it"
    return HoldoutError(f"all rows are {what}, so none can be held out of the others; give more rows")


def no_second_row() -> HoldoutError:
    """Return the error that each part has all rows of some label."""
    return HoldoutError("each row is the only one with its label, so none can be held out; give more rows")


def most_held_out(rows: int, how: HoldOut) -> int:
    """Return how many of `rows` rows are held out at most."""
    return max(1, min(rows - 1, round(how.share * rows)))


def _joined(units: Collection[Unit]) -> list[_Part]:
    """Return the part that each row belongs to: rows that share a group or a text, directly or through others, are one
    part, which goes by its least group, or by its text if there are no groups.
    """
    leader: dict[_Part, _Part] = {}

    def find(part: _Part) -> _Part:
        while (above := leader.setdefault(part, part)) != part:
            # Shortens the path for later calls.
            leader[part] = leader[above]
            part = above
        return part

    for unit in units:
        if unit.group is not None:
            one, other = find((1, unit.key)), find((0, group_digest(unit.group)))
            leader[max(one, other)] = min(one, other)
    return [find((1, unit.key)) for unit in units]
