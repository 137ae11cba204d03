"""Which of few rows are held out, in plain Python: what `Splitter` is held against."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from sdk.rows.holdout import Unit, _joined, _Part, most_held_out, no_second_row, one_part
from sdk.schemas.held_out import HoldOut


def held_out(units: Sequence[Unit], how: HoldOut) -> list[bool]:
    """Return for each row, given by `split_unit`, whether it is held out.

    As many rows are held out as fit into the share in whole groups, but at least one; each label keeps at least one row
    in the training. Raises HoldoutError.
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
        # No part that may go fits into the share: the smallest of them is held out.
        smallest = next((part for part in sorted(order, key=lambda part: sizes[part]) if left.take(part)), None)
        if smallest is None:
            raise no_second_row()
        chosen = {smallest}
    return [part in chosen for part in parts]


class _Left:
    """How many rows each label still has in the training."""

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
