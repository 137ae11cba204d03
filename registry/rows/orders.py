"""What can be found out about rows, as functions of paths and plain values: they are called by name in a process apart.

Numbers of rows are given and returned in files of `<i8`, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from registry.rows.asked import texts_of
from registry.rows.comparing.orders import pairs, values
from registry.rows.groups import BY, groups_of
from registry.rows.slices import slices
from sdk.formats.rows import RowsError
from sdk.rows.contamination import rows_among
from sdk.rows.data_files import DataFile
from sdk.rows.holdout import HoldOut, HoldoutError
from sdk.rows.signature_file import SignatureFile, SplitDiffers, make_signatures

NUMBERS = "<i8"


def groups(*, path: str, column: str, rows: str, target: str, by: str) -> None:
    """Write the number of the group of each of these rows. Raises what `groups_of` raises."""
    import numpy as np

    numbers = np.fromfile(rows, NUMBERS)
    found = groups_of(Path(path), column, numbers, value_of=BY[by])
    found.numbers.astype(NUMBERS, copy=False).tofile(target)


def texts(*, path: str, columns: Mapping[str, str] | None, rows: list[int]) -> list[tuple[int, str, str]]:
    """Return the number of each of these rows that can be used, and what it asks and expects. Raises InvalidData."""
    return [(row, *asked) for row, asked in texts_of(Path(path), columns, rows).items()]


def sign(
    *,
    files: list[tuple[str, str]],
    target: str,
    columns: Mapping[str, str] | None,
    held_out: tuple[float, int, str | None] | None,
    training_digest: str | None,
) -> str | None:
    """Write the signatures of the rows of files, given as (path, name); return why there are none."""
    try:
        make_signatures(
            [DataFile(Path(path), name) for path, name in files],
            Path(target),
            columns=columns,
            how=None if held_out is None else HoldOut(*held_out),
            training_digest=training_digest,
            limits_unfolded=True,
        )
    except ImportError:
        return "its rows are Parquet, which this registry can't read"
    except (RowsError, HoldoutError, SplitDiffers) as error:
        return str(error)
    except RecursionError:
        return "some of its rows are nested too deeply"
    return None


def equal(*, signatures: str, rows: str, target: str) -> list[int] | None:
    """Write for each of these rows a number that equal rows share, and return how many rows differ, and how many of
    them equal others; None if the signatures don't have these rows.
    """
    import numpy as np

    numbers, held = np.fromfile(rows, NUMBERS), SignatureFile(Path(signatures))
    if not held.rows or int(numbers[-1]) >= held.rows:
        return None
    by_row = np.empty(held.rows, dtype=np.uint64)
    by_row[held.exact_rows] = held.exact
    found, owners, counts = np.unique(by_row[numbers], return_inverse=True, return_counts=True)
    owners.astype(NUMBERS).tofile(target)
    return [len(found), int(counts[counts > 1].sum())]


def among(*, held: str, training: list[str]) -> dict[str, int]:
    """Return how many rows are in a file of signatures, and how many of them are among those of others, by kind."""
    signatures = SignatureFile(Path(held))
    found = rows_among(signatures, map(SignatureFile, map(Path, training)))
    return {"rows": signatures.rows, **{name: int(rows.sum()) for name, rows in found._asdict().items()}}


WORK: dict[str, Callable[..., Any]] = {
    "groups": groups,
    "texts": texts,
    "sign": sign,
    "equal": equal,
    "among": among,
    "slices": slices,
    "values": values,
    "pairs": pairs,
}
