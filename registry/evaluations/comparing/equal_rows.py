"""Rows of a comparison that have the same fields: a row that occurs 24 times says no more than one that occurs once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from registry.datasets.signatures import NotSigned, Reading, SignedDatasets, TooLongForNow
from registry.rows.process import Breach
from registry.rows.service import Equal, RowReading

#: What a comparison waits for: signatures of this many bytes, or rows of a sixteenth, some seconds of one core.
_MOST_BYTES = 1000**3


@dataclass(frozen=True)
class EqualRows:
    """Which rows are equal."""

    #: How many rows differ from one another; None if all do, or that is not known. Otherwise the group of each row, a
    #: number from 0 that equal rows share, was written.
    distinct: int | None = None
    #: What readers should know about it, in sentences.
    notes: list[str] = field(default_factory=list)


def equal_rows(
    signed: SignedDatasets,
    reading: RowReading,
    dataset: str,
    columns: str | None,
    rows: Path,
    groups: Path,
    *,
    count: int,
) -> EqualRows:
    """Find the equal ones among the `count` numbers in the file `rows`, of rows of a dataset, by the signatures that are
    kept with it, and write their `groups`. Raises Unavailable.

    Callers only learn how many there are, so the signatures are read for anybody who may read the scores.
    """
    try:
        with signed.opened(dataset, Reading(columns), most=_MOST_BYTES) as held:
            return _found(reading.equal(held.path, rows, groups), count)
    except Breach as why:
        return EqualRows(notes=[f"whether rows are equal was not looked at: the dataset {why}"])
    except NotSigned as why:
        return EqualRows(notes=[f"whether rows are equal was not looked at: {why}"])
    except TooLongForNow:
        return EqualRows(notes=["whether rows are equal was not looked at: the dataset is too long for it"])


def _found(equal: Equal | None, rows: int) -> EqualRows:
    if equal is None:
        return EqualRows(
            notes=["whether rows are equal was not looked at: the dataset is read otherwise by this release"]
        )
    if equal.different == rows:
        return EqualRows()
    different = "1 different row" if equal.different == 1 else f"{equal.different} different rows"
    return EqualRows(
        equal.different,
        [f"{equal.repeated} of the rows equal others, and equal rows count as one, which leaves {different}"],
    )
