"""Scores by row as columns, as a pandas DataFrame, and as a Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdk.errors import Unavailable
from sdk.exporting.placing import beside, free, put_in_place
from sdk.schemas.evaluation import RowScore
from sdk.worker_program import require_libraries

if TYPE_CHECKING:
    import pandas


def row_frame(rows: Sequence[RowScore]) -> pandas.DataFrame:
    """Return a DataFrame with the number of the row as its index: `loss_sum`, `tokens`, `prediction`, and a column for each metric.

    Raises Unavailable if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise Unavailable(
            "a DataFrame needs pandas, which is not installed; run: pip install pandas, or use the list of evaluation_rows"
        ) from error
    columns = row_columns(rows)
    types = {name: "float64" for name, (kind, _) in columns.items() if kind == "float"}
    return pandas.DataFrame({name: values for name, (_, values) in columns.items()}).astype(types).set_index("row")


def row_columns(rows: Sequence[RowScore]) -> dict[str, tuple[Literal["int", "float", "str"], list[Any]]]:
    """Return the columns of a table of rows, in order, each with the type of its values; None if a row has no value.

    Columns after `prediction` are there if any row has a value, as is each metric.
    """
    fields: dict[str, Literal["int", "float", "str"]] = {
        "row": "int",
        "loss_sum": "float",
        "tokens": "int",
        "prediction": "str",
        "content": "str",
        "reasoning": "str",
        "content_loss_sum": "float",
        "content_tokens": "int",
        "end_loss": "float",
        "text_bytes": "int",
        "expected": "str",
        "confidence": "float",
        "unscored": "str",
    }
    found = {name: (kind, [getattr(row, name) for row in rows]) for name, kind in fields.items()}
    for name in list(fields)[4:]:
        if all(value is None for value in found[name][1]):
            del found[name]
    names = sorted({name for row in rows for name in row.scores})
    return {**found, **{name: ("float", [row.scores.get(name) for row in rows]) for name in names}}


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
