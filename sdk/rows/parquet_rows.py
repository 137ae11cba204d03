"""The rows of a Parquet file, decoded a few at a time: what the file unfolds to is found out before it is in memory.

A few hundred bytes of Parquet can stand for gigabytes, since a value that is repeated is stored once. So the footer is
read first, and rows are decoded in batches that are small enough even if each row has the longest value of each column.
Needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdk.formats.row_bounds import LONG_ROW, MOST_KEYS, MOST_LINE_BYTES, within
from sdk.formats.rows import RowsError, first_line

#: About how much one batch unfolds to at most, if no row is longer than a row may be; and how many rows it has.
_BATCH_BYTES, _BATCH_ROWS = 64 * 1024 * 1024, 256
#: What a file unfolds to at most where that is limited: this much, or this many times its size.
_MOST_UNFOLDED_BYTES, MOST_UNFOLDED_TIMES = 1024**3, 20
#: A value in a list takes this much at least, as an object, and a row.
_VALUE_BYTES, _ROW_BYTES = 8, 64
#: How much longer than the average a row is assumed to be, of a column whose values are all written out.
_LONGER = 8
#: The size of a number of each kind; texts have none.
_SIZES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
#: Encodings in which a text is written as a change to the one before it.
_CHANGES = "DELTA_BYTE_ARRAY"
_BUFFER_BYTES = 1 << 20
_DICTIONARY_PAGE = 2


def parquet_rows(path: Path, *, limits_unfolded: bool) -> Iterator[Any]:
    """Yield the value of each row; a ValueError stands for one that is too large. Raises RowsError, ImportError."""
    import pyarrow
    import pyarrow.parquet

    most = max(_MOST_UNFOLDED_BYTES, MOST_UNFOLDED_TIMES * path.stat().st_size) if limits_unfolded else None
    unfolded = 0
    try:
        with path.open("rb") as raw, pyarrow.parquet.ParquetFile(raw, buffer_size=_BUFFER_BYTES) as file:
            if (columns := len(file.schema_arrow)) > MOST_KEYS:
                raise RowsError(
                    f"the dataset has {columns} columns, and a file may have {MOST_KEYS:,}; leave out what is not needed"
                )
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                _require_within(unfolded + max(group.total_byte_size, group.num_rows * _ROW_BYTES), most)
                for batch in file.iter_batches(_batch_rows(path, group), row_groups=[number], use_threads=False):
                    size = _size_of(batch)
                    unfolded += max(size, batch.num_rows * _ROW_BYTES)
                    _require_within(unfolded, most)
                    yield from _values(batch, size)
    except MemoryError:
        # It is an error of Arrow's, too.
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise RowsError(f"the Parquet file can't be read ({first_line(error)}); write it again") from error
    except RecursionError:
        raise RowsError("the columns of the Parquet file are nested too deeply; write its rows as JSONL") from None


def _require_within(unfolded: int, most: int | None) -> None:
    if most is not None and unfolded > most:
        raise RowsError(
            f"the Parquet file unfolds to more than {most >> 20} MiB, {MOST_UNFOLDED_TIMES} times its size or "
            f"{_MOST_UNFOLDED_BYTES >> 20} MiB; write its rows as JSONL, or in several files"
        )


def _batch_rows(path: Path, group: Any) -> int:
    """Return how many rows of a row group are decoded at once."""
    rows = max(1, group.num_rows)
    longest = 0
    for number in range(group.num_columns):
        column = group.column(number)
        longest += -(-column.num_values // rows) * _longest(path, column, group.num_rows)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, longest)))


def _longest(path: Path, column: Any, rows: int) -> int:
    """Return about how large a value of a column may be, in bytes: no text is longer than what it is written in."""
    if (size := _SIZES.get(column.physical_type)) is not None:
        return size
    whole = int(column.total_uncompressed_size)
    if _CHANGES in column.encodings:
        return whole
    return max(_dictionary_bytes(path, column, whole), min(whole, _LONGER * whole // max(1, rows)))


def _dictionary_bytes(path: Path, column: Any, whole: int) -> int:
    """Return the size of the page that has the values which are stored once; 0 if a column has none.

    The page begins with its type, its size, and its size when compressed, in Thrift's compact protocol.
    """
    offset = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    with path.open("rb") as file:
        file.seek(max(0, offset))
        head = file.read(32)
    numbers: list[int] = []
    at = 0
    while len(numbers) < 3 and head[at : at + 1] == b"\x15":
        number, shift, more = 0, 0, True
        at += 1
        while more and at < len(head):
            number |= (head[at] & 0x7F) << shift
            more, shift, at = bool(head[at] & 0x80), shift + 7, at + 1
        numbers.append(number >> 1 if number % 2 == 0 else -(number >> 1) - 1)
    if len(numbers) < 3:
        return whole
    return max(0, *numbers[1:]) if numbers[0] == _DICTIONARY_PAGE else 0


def _values(batch: Any, size: int) -> Iterator[Any]:
    """Yield the rows of a batch, which takes this many bytes, as values."""
    if size <= MOST_LINE_BYTES:
        for value in batch.to_pylist():
            yield _bounded(value, size)
        return
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        size = _size_of(row)
        yield ValueError(LONG_ROW) if size > MOST_LINE_BYTES else _bounded(row.to_pylist()[0], size)


def _bounded(value: dict[str, Any], size: int) -> Any:
    # A label that is null is kept, because the column is there.
    label = {"label": None} if "label" in value and value["label"] is None else {}
    try:
        return within({**_without_nulls(value), **label}, size_bytes=size)
    except ValueError as error:
        return error


def _size_of(batch: Any) -> int:
    """Return what a batch unfolds to, in bytes."""
    return int(batch.nbytes) + sum(_beyond(column) for column in batch.columns)


def _beyond(array: Any) -> int:
    """Return what an array unfolds to beyond its own bytes: each value in a list or an object, and each text that
    several rows share.
    """
    import pyarrow.types

    if isinstance(array.type, pyarrow.ExtensionType):
        return _beyond(array.storage)
    if pyarrow.types.is_dictionary(array.type):
        return _shared(array)
    if not pyarrow.types.is_nested(array.type):
        return 0
    if pyarrow.types.is_map(array.type):
        begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        parts = [part.slice(begin, end - begin) for part in (array.keys, array.items)]
    else:
        inner = array.flatten()
        parts = inner if isinstance(inner, list) else [inner]
    return sum(_VALUE_BYTES * len(part) + _beyond(part) for part in parts)


def _shared(array: Any) -> int:
    import pyarrow.compute
    import pyarrow.types

    longest = len(array) * int(array.dictionary.nbytes)
    kind = array.dictionary.type
    texts = any(is_kind(kind) for is_kind in (pyarrow.types.is_string, pyarrow.types.is_large_string))
    if longest <= MOST_LINE_BYTES or not texts:
        return longest
    lengths = pyarrow.compute.binary_length(array.dictionary)
    return int(pyarrow.compute.sum(lengths.take(array.indices)).as_py() or 0)


def _without_nulls(value: Any) -> Any:
    """Leave out keys that hold null: Parquet gives each object of a column all keys that any of them has."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
