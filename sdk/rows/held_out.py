"""Rows of a held-out file that are among the training rows: the same, the same but for spelling, or mostly the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sdk.rows.grams import Texts, contained, jaccard, signatures
from sdk.rows.near import NEAR
from sdk.rows.spool import matches
from sdk.rows.table import RowTable
from sdk.schemas.data_audit import AuditExample, AuditFinding, Kind

if TYPE_CHECKING:
    import numpy.typing as npt

#: Texts are compared where a training row has this share of a held-out row's signature: winnowing around what was changed
#: leaves some grams out that are the same.
_SHARE = 0.4
#: Bits of a hash that are looked up first, in one table: most grams of a training row are no held-out row's.
_FIRST_BITS = 24


class HeldOutRows:
    """The signatures of held-out rows, and for each the training row that has most of it."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[Any]] = []
        self._hashes: npt.NDArray[Any] | None = None

    def learn(self, _first: int, texts: Texts) -> None:
        """Take signatures of held-out texts."""
        self._parts += signatures(texts)

    def ready(self) -> None:
        """Begin to look at training texts."""
        import numpy as np

        sizes = np.array([len(part) for part in self._parts], np.int64)
        hashes = np.concatenate([*self._parts, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
        self._parts = []
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        self._sizes = sizes
        self._begun = np.zeros(1 << _FIRST_BITS, bool)
        self._begun[hashes >> np.uint64(64 - _FIRST_BITS)] = True
        self.share = np.zeros(len(sizes))
        self.row = np.full(len(sizes), -1, np.int64)

    def look(self, first: int, texts: Texts) -> None:
        """Look for signatures in training texts, the first of which is of the row `first`."""
        import numpy as np

        if self._hashes is None or not len(self._hashes):
            return
        grams = texts.grams
        likely = np.flatnonzero(self._begun[grams.hashes >> np.uint64(64 - _FIRST_BITS)])
        begin = np.searchsorted(self._hashes, grams.hashes[likely])
        counts = np.searchsorted(self._hashes, grams.hashes[likely], side="right") - begin
        begin, counts, there = begin[counts > 0], counts[counts > 0], likely[counts > 0]
        if not len(there):
            return
        # Every held-out row with this gram, for every place that it has in a training row.
        places = np.repeat(begin - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        rows = np.repeat(grams.owners[there], counts)
        hits = np.unique(np.stack([self._owners[places], rows, places]), axis=1)[:2]
        pairs, shared = np.unique(hits, axis=1, return_counts=True)
        share = shared / self._sizes[pairs[0]]
        for held, row, part in zip(pairs[0], pairs[1], share, strict=True):
            if part > self.share[held]:
                self.share[held], self.row[held] = part, row + first


def held_out_findings(
    training: RowTable, held: RowTable, found: HeldOutRows, *, most_examples: int
) -> Iterator[AuditFinding]:
    """Yield what of the held-out rows is among the training rows; each is told once, as what is most the same."""
    import numpy as np

    exact = matches(training.exact, held.exact.between(0, held.rows))
    normal = matches(training.normalised, held.normalised.between(0, held.rows))
    normal[exact >= 0] = -1
    near = np.full(held.rows, -1, np.int64)
    details: dict[int, str] = {}
    for row in np.flatnonzero((exact < 0) & (normal < 0) & (found.share >= _SHARE)).tolist():
        one, other = held.texts.at(row), training.texts.at(int(found.row[row]))
        part, index = contained(one, other), jaccard(one, other)
        if max(part, index) >= NEAR:
            near[row] = found.row[row]
            details[row] = f"{part:.0%} of its 13-grams are there" if part >= NEAR else f"Jaccard index {index:.2f}"
    kinds: tuple[tuple[Kind, Any], ...] = (
        ("held_out_exact", exact),
        ("held_out_normalised", normal),
        ("held_out_near", near),
    )
    for kind, rows in kinds:
        there = np.flatnonzero(rows >= 0).tolist()
        if there:
            examples = [
                AuditExample(rows=[training.where(int(rows[row]))], held_out=held.where(row), detail=details.get(row))
                for row in there[:most_examples]
            ]
            yield AuditFinding(kind=kind, rows=len(there), examples=examples)
