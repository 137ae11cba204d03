"""Rows of a held-out file that are among the training rows: the same, the same but for case and spaces, or nearly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sdk.rows.grams import Texts, contained, jaccard, signatures
from sdk.rows.near import NEAR
from sdk.rows.spool import matches
from sdk.rows.table import RowTable
from sdk.schemas.data_audit import AuditExample, AuditFinding, Kind

if TYPE_CHECKING:
    import numpy.typing as npt

#: Texts are compared if a training row has this share of a held-out row's signature. It is this low because around a
#: change winnowing also leaves out grams that are the same.
_SHARE = 0.4
#: A gram that more held-out texts than this have, such as one of an instruction that all rows begin with, does not tell
#: them apart, and looking it up would take time in proportion to held-out rows times training rows.
_MOST_OWNERS = 20
#: How many of the training rows that share a key of least hashes with a held-out row are compared with it.
_MOST_CANDIDATES = 3
#: How many bits of a hash are looked up first, in one table: most grams of a training row are in no held-out row.
_FIRST_BITS = 24
#: About how many pairs of a held-out text and a gram of a training row are in memory at once.
_MOST_PAIRS = 1 << 20


class HeldOutRows:
    """The signatures of held-out rows, and for each signature the training row that has most of it.

    `out`, (rows,) of bool, says which rows of the training's file are held out; without it, none is.
    """

    def __init__(self, out: npt.NDArray[Any] | None = None) -> None:
        #: Which rows of the training's file are not held out, (rows,) of bool; None for all.
        self.others = None if out is None else ~out
        self._signatures: dict[bytes, int] = {}
        self._texts: list[int] = []
        self._ready = False
        #: Pairs of a held-out text and a gram of a training row that were looked at.
        self.pairs = 0

    def learn(self, _first: int, texts: Texts) -> None:
        """Add the signatures of held-out texts; rows with the same signature share it."""
        for part in signatures(texts):
            self._texts.append(self._signatures.setdefault(part.tobytes(), len(self._signatures)))

    def ready(self) -> None:
        """Prepare for `look`, once all held-out texts are learnt."""
        import numpy as np

        parts = [np.frombuffer(part, np.uint64) for part in self._signatures]
        self._signatures = {}
        #: (texts,) how many grams each has.
        self._sizes = np.array([len(part) for part in parts], np.int64)
        hashes = np.concatenate([*parts, np.empty(0, np.uint64)])
        order = np.argsort(hashes, kind="stable")
        owners = np.repeat(np.arange(len(parts), dtype=np.int64), self._sizes)[order]
        hashes, counts = np.unique(hashes, return_counts=True)
        few = counts <= _MOST_OWNERS
        kept = np.repeat(few, counts)
        #: (hashes,) sorted; how many texts have each; and these texts, which for each hash begin at `_begins`.
        self._hashes, self._counts, self._owners = hashes[few], counts[few], owners[kept]
        self._begins = np.cumsum(self._counts) - self._counts
        self._common = self._sizes - np.bincount(self._owners, minlength=len(parts))
        self._begun = np.zeros(1 << _FIRST_BITS, bool)
        self._begun[self._hashes >> np.uint64(64 - _FIRST_BITS)] = True
        self._shared = np.zeros(len(parts), np.int64)
        self._row = np.full(len(parts), -1, np.int64)
        self._ready = True

    def look(self, first: int, texts: Texts) -> None:
        """Look for the signatures in training texts, of which the first is that of row `first`."""
        import numpy as np

        if not self._ready or not len(self._hashes):
            return
        grams = texts.grams
        likely = np.flatnonzero(self._begun[grams.hashes >> np.uint64(64 - _FIRST_BITS)])
        at = np.minimum(np.searchsorted(self._hashes, grams.hashes[likely]), len(self._hashes) - 1)
        there = self._hashes[at] == grams.hashes[likely]
        if self.others is not None:
            there &= self.others[first + grams.owners[likely]]
        # Each gram counts once in each training row; they are in the order of the rows.
        found = np.unique(grams.owners[likely[there]] * len(self._hashes) + at[there])
        rows, at = np.divmod(found, len(self._hashes))
        for part in _slices(rows, self._counts[at]):
            self._take(first + rows[part], at[part])

    def _take(self, rows: npt.NDArray[Any], at: npt.NDArray[Any]) -> None:
        """Note training rows, each with all of its grams; `at` has their places among the hashes, (n,) each."""
        import numpy as np

        counts = self._counts[at]
        places = np.repeat(self._begins[at] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        self.pairs += len(places)
        # A text and a row as one number; rows count from the first of the slice.
        lowest, span = rows[0], rows[-1] - rows[0] + 1
        found = self._owners[places] * span + np.repeat(rows - lowest, counts)
        pairs, shared = np.unique(found, return_counts=True)
        texts, rows = np.divmod(pairs, span)
        # For each text, the row that has most of it comes first; of several such rows, the first in the file.
        order = np.lexsort((rows, -shared, texts))
        order = order[np.flatnonzero(np.diff(texts[order], prepend=-1))]
        order = order[shared[order] > self._shared[texts[order]]]
        self._shared[texts[order]] = shared[order]
        self._row[texts[order]] = rows[order] + lowest

    def likely(self) -> npt.NDArray[Any]:
        """Return for each held-out row the training row worth comparing it with, (rows,) of int64; -1 for none."""
        import numpy as np

        # Grams that many held-out rows have were not looked up; they may be in any training row.
        enough = self._shared + self._common >= _SHARE * self._sizes
        return np.where(enough, self._row, -1)[np.array(self._texts, np.int64)]


def _slices(rows: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of whole rows with about as many pairs as may be in memory at once; `rows` is sorted, and `counts`
    is how many pairs each place has.
    """
    import numpy as np

    done = np.cumsum(counts)
    begin = 0
    while begin < len(rows):
        end = int(np.searchsorted(done, (done[begin - 1] if begin else 0) + _MOST_PAIRS, side="right"))
        if end < len(rows):
            # The row that does not fit begins the next slice, unless it is the only one in this slice.
            end = max(int(np.searchsorted(rows, rows[end])), int(np.searchsorted(rows, rows[begin], side="right")))
        yield slice(begin, end)
        begin = end


def held_out_findings(
    training: RowTable, held: RowTable, found: HeldOutRows, *, most_examples: int
) -> Iterator[AuditFinding]:
    """Yield findings about held-out rows that are among the training rows, each reported once, as its closest match."""
    import numpy as np

    exact = matches(training.exact, held.exact.between(0, held.rows), found.others)
    normal = matches(training.normalised, held.normalised.between(0, held.rows), found.others)
    normal[exact >= 0] = -1
    near = np.full(held.rows, -1, np.int64)
    details: dict[int, str] = {}
    for row, candidates in _candidates(training, held, found, np.flatnonzero((exact < 0) & (normal < 0))):
        text = held.texts.at(row)
        for candidate in candidates:
            if (detail := _near(text, training.texts.at(candidate))) is not None:
                near[row], details[row] = candidate, detail
                break
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


def _candidates(
    training: RowTable, held: RowTable, found: HeldOutRows, rows: npt.NDArray[Any]
) -> Iterator[tuple[int, list[int]]]:
    """Yield held-out rows with the training rows that each is compared with, the likeliest first.

    Held-out rows that differ from one another by little more than a number have no grams of their own to be found by;
    they are found by the keys of least hashes that they share with training rows.
    """
    import numpy as np

    likely = found.likely()[rows].tolist()
    sharing = np.stack(
        [
            matches(mine, keys.between(0, held.rows)[rows], found.others)
            for mine, keys in zip(training.bands, held.bands, strict=True)
        ]
    )
    for row, first, others in zip(rows.tolist(), likely, sharing.T.tolist(), strict=True):
        counted = Counter(other for other in others if other >= 0)
        most = [other for other, _ in counted.most_common(_MOST_CANDIDATES) if other != first]
        if candidates := [*([first] if first >= 0 else []), *most]:
            yield row, candidates


def _near(one: str, other: str) -> str | None:
    """Return how much of a held-out text is in another, as the rest of a sentence; None if that is too little."""
    if (part := contained(one, other)) >= NEAR:
        return f"{part:.0%} of its 13-grams are in it"
    index = jaccard(one, other)
    return f"Jaccard index {index:.2f}" if index >= NEAR else None
