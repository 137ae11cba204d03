"""Rows of a comparison that have the same fields: a row that occurs 24 times says no more than one that occurs once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.datasets.signatures import NotSigned, Reading, SignedDatasets, TooLongForNow
from registry.rows.process import Breach
from registry.rows.service import Equal, RowReading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: What a comparison waits for: signatures of this many bytes, or rows of a sixteenth, some seconds of one core.
_MOST_BYTES = 1000**3


@dataclass(frozen=True)
class EqualRows:
    """Which rows are equal."""

    #: (rows,) a number from 0 that equal rows share; None if no two are equal, or that is not known.
    groups: npt.NDArray[np.int64] | None = None
    #: What readers should know about it, in sentences.
    notes: list[str] = field(default_factory=list)

    @property
    def distinct(self) -> int | None:
        """How many rows differ from one another; None if all do, or that is not known."""
        return None if self.groups is None else int(self.groups.max()) + 1


def equal_rows(
    signed: SignedDatasets, reading: RowReading, dataset: str, columns: str | None, rows: npt.NDArray[np.int64]
) -> EqualRows:
    """Find the equal ones among `rows`, numbers of rows in a dataset, by the signatures that are kept with it. Raises
    Unavailable.

    Callers only learn how many there are, so the signatures are read for anybody who may read the scores.
    """
    try:
        with signed.opened(dataset, Reading(columns), most=_MOST_BYTES) as held:
            return _found(reading.equal(held.path, rows), len(rows))
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
        equal.groups,
        [f"{equal.repeated} of the rows equal others, and equal rows count as one, which leaves {different}"],
    )
