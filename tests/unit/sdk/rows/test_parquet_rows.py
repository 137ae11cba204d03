"""Parquet is decoded a few rows at a time, and what it unfolds to is bounded: a few hundred bytes may stand for gigabytes."""

from __future__ import annotations

import datetime
import decimal
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sdk.formats.rows import RowsError
from sdk.rows.data_files import file_values
from sdk.rows.parquet_rows import parquet_rows

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

MIB = 1 << 20


def write(folder: Path, columns: Any, **options: Any) -> Path:
    path = folder / "rows.parquet"
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    parquet.write_table(table, path, **options)
    return path


def repeated(folder: Path, text: str, rows: int, **options: Any) -> Path:
    """Write rows with the same text, which is in the file once."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([text]))
    path = write(folder, {"text": texts}, compression="zstd", dictionary_pagesize_limit=1 << 30, **options)
    assert path.stat().st_size < 2000
    return path


def values(path: Path, *, limits_unfolded: bool = False) -> list[Any]:
    return [value for _, value in file_values(path, limits_unfolded=limits_unfolded)]


def peak_bytes(path: Path) -> int:
    """Return how much memory all rows of a file take at most, while they are read one by one."""
    pool, before = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool()), pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    tracemalloc.start()
    try:
        for _ in file_values(path):
            pass
        return int(pool.max_memory()) + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pyarrow.set_memory_pool(before)


class TestUnfolding:
    @pytest.mark.parametrize("stored", [False, True])
    def test_text_that_all_rows_share_is_in_memory_a_few_times(self, tmp_path: Path, stored: bool) -> None:
        path = repeated(tmp_path, "a" * 2 * MIB, 120, store_schema=stored)
        assert peak_bytes(path) < 200 * MIB

    def test_file_that_unfolds_to_more_than_a_registry_reads_is_refused(self, tmp_path: Path) -> None:
        path = repeated(tmp_path, "a" * 8 * MIB, 140)
        with pytest.raises(
            RowsError, match=r"unfolds to more than 1024 MiB, 20 times its size or .*; write its rows as"
        ):
            values(path, limits_unfolded=True)
        # A worker reads it: its owner's own limits hold there.
        assert sum(1 for _ in parquet_rows(path, limits_unfolded=False)) == 140

    def test_very_many_rows_of_nothing_are_refused_by_the_footer(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"text": pyarrow.nulls(20_000_000, pyarrow.string())}, row_group_size=20_000_000)
        assert path.stat().st_size < 50_000
        rows = parquet_rows(path, limits_unfolded=True)
        with pytest.raises(RowsError, match="unfolds to more than 1024 MiB"):
            next(rows)

    def test_row_that_is_too_large_is_a_bad_row_among_others(self, tmp_path: Path) -> None:
        texts = [["a"], ["a" * 7 * MIB] * 3, ["b"]]
        one, two, three = values(write(tmp_path, {"text": pyarrow.array(texts)}, compression="zstd"))
        assert (one, three) == ({"text": ["a"]}, {"text": ["b"]})
        assert str(two) == "has more than 16 MiB, the most that a row may have; divide or shorten it"

    def test_row_with_very_many_values_is_a_bad_row(self, tmp_path: Path) -> None:
        many = pyarrow.array([[None] * 3_000_000, [None]], pyarrow.list_(pyarrow.int8()))
        bad, good = values(write(tmp_path, {"text": many}))
        assert isinstance(bad, ValueError)
        assert good == {"text": [None]}

    def test_text_that_is_too_long_is_a_bad_row(self, tmp_path: Path) -> None:
        whole, bad = values(write(tmp_path, {"text": ["a" * 8 * MIB, "a" * (8 * MIB + 1)]}))
        assert isinstance(whole, dict)
        assert str(bad) == "has a text of more than 8 MiB, the most that a text may have; divide or shorten it"

    def test_too_many_columns_are_refused(self, tmp_path: Path) -> None:
        assert values(write(tmp_path, {str(number): [1] for number in range(1000)}))
        with pytest.raises(RowsError, match="the dataset has 1001 columns, and a file may have 1,000; leave out"):
            values(write(tmp_path, {str(number): [1] for number in range(1001)}))

    def test_category_of_very_many_rows_is_read(self, tmp_path: Path) -> None:
        names = pyarrow.array([f"{number}-" + "a" * 4096 for number in range(300)])
        found = pyarrow.DictionaryArray.from_arrays(
            pyarrow.array([n % 300 for n in range(900)], pyarrow.int32()), names
        )
        assert [value["text"][:4] for value in values(write(tmp_path, {"text": found}))[298:302]] == [
            "298-",
            "299-",
            "0-aa",
            "1-aa",
        ]


def test_values_of_all_kinds_are_those_of_the_file(tmp_path: Path) -> None:
    times = 700
    table = pyarrow.table(
        {
            "category": pyarrow.array(["x", "y", None] * times).dictionary_encode(),
            "object": [{"k": [1, 2], "z": None}, None, {"k": None, "z": "q"}] * times,
            "map": pyarrow.array([[("a", 1)], None, []] * times, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "decimal": [decimal.Decimal("1.20"), None, decimal.Decimal("7.00")] * times,
            "day": [datetime.date(2020, 1, 1)] * 3 * times,
            "nothing": pyarrow.nulls(3 * times),
            "pair": pyarrow.array([[1.0, 2.0]] * 3 * times, pyarrow.list_(pyarrow.float32(), 2)),
            "bytes": pyarrow.array([b"ab"] * 3 * times, pyarrow.binary(2)),
            "number": list(range(3 * times)),
            "label": [None, "s", "t"] * times,
        }
    )
    path = write(tmp_path, table, row_group_size=900)
    found = list(file_values(path))
    assert [where for where, _ in itertools.islice(found, 2)] == ["row 1", "row 2"]

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(inner) for key, inner in value.items() if inner is not None}
        return [kept(inner) for inner in value] if isinstance(value, list) else value

    assert [value for _, value in found] == [{**kept(row), "label": row["label"]} for row in table.to_pylist()]


def test_file_that_ends_early_is_no_parquet(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a"] * 10})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RowsError, match=r"the Parquet file can't be read .*; write it again"):
        values(path)
