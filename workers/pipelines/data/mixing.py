"""Rows of several files by weight: a file with the share w of all weights provides the share w of an epoch's rows.

An epoch has as many rows as all files together, N. File i with the weight wᵢ provides kᵢ of them: N · wᵢ / Σ w, rounded
so that their sum is N (the largest remainders up, and the first of equal ones). Each of its nᵢ rows occurs kᵢ div nᵢ
times, and kᵢ mod nᵢ of them, chosen by the seed, once more: no row is repeated before all rows of its file have
occurred. Each epoch has the same rows, in an order of its own.

>>> drawn_rows([100, 900], [3, 1])
[750, 250]
>>> drawn_rows([3, 3], [1, 1000])
[0, 6]
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sdk.schemas.failures import FailureReason
from workers.pipelines.data.rows import CheckedRows
from workers.pipelines.errors import PipelineError

if TYPE_CHECKING:
    import numpy.typing as npt


def drawn_rows(rows: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return how many rows an epoch has from each file, given the files' numbers of rows and their weights."""
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) / total * sum(rows) for weight in weights]
    found = [int(share) for share in exact]
    order = sorted(range(len(rows)), key=lambda at: found[at] - exact[at])
    for at in order[: sum(rows) - sum(found)]:
        found[at] += 1
    return found


def weighted(rows: CheckedRows, weights: Sequence[float], seed: int) -> CheckedRows:
    """Return rows, each as often as it occurs in an epoch; held-out rows are not among them. Raises PipelineError
    ("data") for a weight that is too small for one row.
    """
    import numpy as np

    kept = np.ones(sum(rows.rows), np.uint32) if rows.times is None else rows.times.astype(np.uint32)
    counts = rows.by_file()
    drawn = drawn_rows(counts, weights)
    parts = np.split(kept, np.cumsum(rows.rows)[:-1])
    for number, (part, count, many) in enumerate(zip(parts, counts, drawn, strict=True)):
        if not many:
            name = rows.files[number].name
            raise PipelineError(
                FailureReason.DATA,
                f"The weight {weights[number]:g} of {name} gives none of the {sum(counts)} rows of an epoch; raise it, or leave {name} out.",
            )
        often, more = divmod(many, count)
        there = np.flatnonzero(part)
        part[there] = often
        part[there[_chosen(count, more, number, seed)]] += 1
    return rows.coming(np.concatenate(parts))


def require_labels(rows: CheckedRows, drawn: CheckedRows, weights: Sequence[float]) -> None:
    """Raise PipelineError ("data") for a label that none of the rows drawn by weight has."""
    there = {row.fields["label"] for row in drawn}
    files = (file for file, count in enumerate(rows.by_file()) for _ in range(count))
    for file, row in zip(files, rows, strict=True):
        if row.fields["label"] not in there:
            raise PipelineError(
                FailureReason.DATA,
                f"The weight {weights[file]:g} of {rows.files[file].name} leaves no row of the label {row.fields['label']!r} in an "
                "epoch; raise it.",
            )


def _chosen(rows: int, more: int, file: int, seed: int) -> npt.NDArray[Any]:
    """Return which `more` of a file's rows come once more: those with the smallest digests of seed, file and row."""
    import numpy as np

    if not more:
        return np.empty(0, np.int64)
    begun = hashlib.blake2b(seed.to_bytes(8, "little") + file.to_bytes(8, "little"), digest_size=8)
    keys = np.empty(rows, "<u8")
    for row in range(rows):
        one = begun.copy()
        one.update(row.to_bytes(8, "little"))
        keys[row] = int.from_bytes(one.digest(), "little")
    return np.sort(np.argsort(keys, kind="stable")[:more])
