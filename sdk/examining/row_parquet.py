"""Scores by row as a Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdk.examining.row_frames import row_columns
from sdk.exporting.placing import beside, free, put_in_place
from sdk.schemas.evaluation import RowScore
from sdk.worker_program import require_libraries


def write_row_parquet(read: Callable[[], Sequence[RowScore]], output: str | Path) -> Path:
    """Write the rows that `read` returns to a new file, with the columns of `row_columns`; return its path.

    Raises Unavailable without pyarrow, InvalidInput for a name that doesn't end in .parquet, Conflict if the file
    exists, and the errors of `read`, which is called last.
    """
    require_libraries(("pyarrow",), doing="writing Parquet")
    target = free(output, like="FILE.parquet")
    import pyarrow
    from pyarrow import parquet

    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string()}
    columns = row_columns(read())
    table = pyarrow.table({name: pyarrow.array(values, types[kind]) for name, (kind, values) in columns.items()})
    with beside(target) as folder:
        written = folder / target.name
        parquet.write_table(table, written)
        put_in_place(written, target)
    return target
