"""Which datasets share rows, by the signatures that contamination keeps: what was tried on the one was tried on the other.

Two files of rows are compared once, outside of any transaction, and what was found stays: neither ever changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.datasets.signatures import NotSigned, Reading, SignedDatasets, TooLongForNow
from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.errors import Unavailable
from registry.promotion.models import SharedRows
from registry.rows.process import Breach
from registry.rows.service import RowReading
from sdk.rows.signature_file import SignatureFile
from sdk.schemas.policies import RowsRule
from sdk.schemas.wire import digest_of

#: A dataset of whose rows more than this share are in another one inherits what was tried on that.
MOST_SHARE = 0.1
#: How long datasets are compared in one request; the next one goes on.
_BUDGET_S = 60.0
#: What is read for it: signatures of this many bytes, or rows of a sixteenth, some seconds of one core.
_MOST_BYTES = 1000**3


class ReadRows(NamedTuple):
    """A dataset, and which of its columns are which keys of a row."""

    dataset: str
    columns: str | None = None


@dataclass(frozen=True)
class SharedCount:
    """How many rows of a dataset are among those of another."""

    rows: int
    #: None: that could not be found out.
    shared: int | None
    #: Why not, as the rest of a sentence.
    reason: str | None = None

    @property
    def is_much(self) -> bool | None:
        """Whether what was tried on the other one counts for this one; None: nobody knows."""
        return None if self.shared is None else self.shared > MOST_SHARE * self.rows

    def of_first(self, most: int | None) -> SharedCount:
        """The same of the first rows alone, of which those that are shared may be all; None: of all rows."""
        if most is None or self.shared is None:
            return self
        return replace(self, rows=min(self.rows, most), shared=min(self.shared, most))


@dataclass(frozen=True)
class RowSharing:
    """Finds out which datasets share rows."""

    db: Database
    signed: SignedDatasets
    reading: RowReading
    clock: Callable[[], float] = time.monotonic

    def of_judged(self, rule: RowsRule, others: Iterable[ReadRows]) -> dict[str, SharedCount]:
        """Return what the rows by which a rule judges share with each of other datasets, by their digests.

        Only the first rows are answered, so few rows of a large dataset may be all that judge by their answers. A dataset may
        be among the others in several readings. Raises Unavailable as `of` does.
        """
        rows = ReadRows(rule.data, rule.evaluation.columns)
        readings: dict[str, list[ReadRows]] = {}
        for other in dict.fromkeys(others):
            readings.setdefault(other.dataset, []).append(other)
        found: dict[str, SharedCount] = {}
        while readings:
            for dataset, one in self.of(rows, [each.pop() for each in readings.values()]).items():
                # The most that is shared in any of its readings; what nobody knows is more than what is little.
                first, again = found.get(dataset), one.of_first(rule.first_rows)
                if first is None or again.is_much or (again.is_much is None and not first.is_much):
                    found[dataset] = again
            readings = {dataset: left for dataset, left in readings.items() if left and not found[dataset].is_much}
        return found

    def of(self, rows: ReadRows, others: Iterable[ReadRows]) -> dict[str, SharedCount]:
        """Return what a dataset shares with each of others, by their digests.

        Raises Unavailable if that takes longer than one request may: the next one goes on where this one ended.
        """
        wanted = sorted(set(others))
        with self.db.read() as session:
            found = known_shares(session, rows, wanted)
        left, began = [one for one in wanted if one.dataset not in found], self.clock()
        for place, other in enumerate(left):
            if self.clock() - began > _BUDGET_S:
                raise Unavailable(
                    f"the rows of {rows.dataset[:12]} are still to be compared with those of {len(left) - place} datasets on which "
                    "versions were tried; ask again"
                )
            found[other.dataset] = self._compared(rows, other)
        return found

    def _compared(self, rows: ReadRows, other: ReadRows) -> SharedCount:
        """Compare two datasets, and keep what is found. Raises Unavailable."""
        try:
            with ExitStack() as stack:
                held, theirs = (stack.enter_context(self._opened(one)) for one in (rows, other))
                if not held.rows or not theirs.rows:
                    # Columns that somebody named and that are not there would hide all rows.
                    return SharedCount(0, None, "none of its rows can be read as they were then")
                counts = self.reading.among(held.path, [theirs.path])
        except NotSigned as why:
            # Somebody may add the rows again.
            return SharedCount(0, None, str(why))
        except TooLongForNow:
            return SharedCount(0, None, "it is too long for that")
        except Breach as why:
            return SharedCount(0, None, f"the comparison {why}")
        found = SharedCount(counts["rows"], sum(counts[kind] for kind in ("exact", "normalised", "near")))
        with self.db.write() as session:
            insert_if_new(session, SharedRows, **_key(rows, other), rows=found.rows, shared=found.shared, reason=None)
        return found

    def _opened(self, rows: ReadRows) -> AbstractContextManager[SignatureFile]:
        return self.signed.opened(rows.dataset, Reading(rows.columns), most=_MOST_BYTES)


def known_shares(session: Session, rows: ReadRows, others: Iterable[ReadRows]) -> dict[str, SharedCount]:
    """Return what is known of how many rows a dataset shares with others, by their digests."""
    same = {one.dataset: SharedCount(1, 1) for one in others if one.dataset == rows.dataset}
    keys = {one.dataset: _key(rows, one)["reading"] for one in others if one.dataset not in same}
    query = select(SharedRows).where(SharedRows.dataset_digest == rows.dataset)
    kept = session.scalars(query.where(SharedRows.other_digest.in_(sorted(keys))))
    there = {
        one.other_digest: SharedCount(one.rows, one.shared) for one in kept if keys[one.other_digest] == one.reading
    }
    return same | there


def related(shares: Mapping[str, SharedCount]) -> set[str]:
    """Return the datasets what was tried on which counts; where nobody knows whether it does, it does."""
    return {dataset for dataset, one in shares.items() if one.is_much is not False}


def _key(rows: ReadRows, other: ReadRows) -> dict[str, str]:
    reading = digest_of([rows.columns, other.columns])
    return {"dataset_digest": rows.dataset, "other_digest": other.dataset, "reading": reading}
