"""Rows of a file that are held out of a training: chosen by a share and a seed, and the same wherever they are chosen.

Rows of one group, and rows that say the same but for case and spaces, are on the same side. Which side follows from what the
rows say, and not from their order.

>>> rows = [(key, None) for key in (b"a", b"b", b"b", b"c", b"d")]
>>> held_out(rows, HoldOut(share=0.4))
[False, True, True, False, False]
>>> held_out([(b"a", None), (b"a", None)], HoldOut(share=0.5))
Traceback (most recent call last):
sdk.rows.holdout.HoldoutError: all rows are the same text, so none can be held out of the others; give more rows
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sdk.formats.rows import Row
from sdk.rows.texts import row_digest, split_key


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


def split_unit(row: Row) -> tuple[bytes, str | None]:
    """Return what decides on which side a row is: the digest of its text, and its group."""
    return split_key(row), row.group


def held_out(units: Sequence[tuple[bytes, str | None]], how: HoldOut) -> list[bool]:
    """Return for each row, given by `split_unit`, whether it is held out: as near below the share as whole groups allow,
    and at least one row on each side. Raises HoldoutError.
    """
    parts = _joined(units)
    sizes = Counter(parts)
    if len(sizes) < 2:
        what = "the same text" if how.by is None else f"in one group of {how.by!a}, or share texts with it"
        raise HoldoutError(f"all rows are {what}, so none can be held out of the others; give more rows")
    seed = how.seed.to_bytes(8, "big")
    order = sorted(sizes, key=lambda part: hashlib.sha256(seed + part).digest())
    most = max(1, min(len(units) - 1, round(how.share * len(units))))
    chosen: set[bytes] = set()
    rows = 0
    for part in order:
        if rows + sizes[part] <= most:
            chosen.add(part)
            rows += sizes[part]
    # Where each group alone is more than the share, the smallest is held out.
    chosen = chosen or {min(order, key=lambda part: sizes[part])}
    return [part in chosen for part in parts]


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the SHA-256 over the digests of rows in any order, in hexadecimal."""
    return digest_of_digests(row_digest(row) for row in rows)


def digest_of_digests(digests: Iterable[bytes]) -> str:
    """Return what `rows_digest` does for the rows with these digests."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _joined(units: Sequence[tuple[bytes, str | None]]) -> list[bytes]:
    """Return for each row what it is a part of, by the least text of it: rows of a group, or with a text, are one part."""
    leader: dict[bytes, bytes] = {}

    def find(key: bytes) -> bytes:
        while (above := leader.setdefault(key, key)) != key:
            # Shortens the way for the next.
            leader[key] = leader[above]
            key = above
        return key

    first_of: dict[str, bytes] = {}
    for key, group in units:
        one = find(key)
        if group is not None:
            other = find(first_of.setdefault(group, key))
            leader[max(one, other)] = min(one, other)
    return [find(key) for key, _ in units]
