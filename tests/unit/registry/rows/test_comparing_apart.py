"""Scores of many rows are compared and sliced apart: the server's own memory doesn't grow with them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.traced import traced

from registry.errors import Invalid, Verification
from registry.rows.comparing.orders import ROWS, RowsOf
from registry.rows.reading_limits import MOST_HELD_BYTES
from registry.rows.service import INLINE_BYTES, RowReading

_MANY = 40_000
_MIB = 1024 * 1024


@pytest.fixture(scope="module")
def apart() -> Iterator[RowReading]:
    with_child = RowReading(apart=True)
    yield with_child
    with_child.close()


def scores(path: Path, rows: int, right: int) -> Path:
    """Write rows of which one in `right` is right."""
    lines = (
        f'{{"row":{row},"tokens":1,"loss_sum":0.5,"scores":{{"acc":{int(row % right == 0)}}}}}\n' for row in range(rows)
    )
    path.write_bytes(gzip.compress("".join(lines).encode(), 1))
    return path


def targets(folder: Path, rows: int) -> list[RowsOf]:
    return [(f"a@v{right}", f"id{right}", str(scores(folder / str(right), rows, right))) for right in (2, 3)]


def compared(reading: RowReading, given: list[RowsOf], folder: Path, *, metric: str = "acc") -> dict[str, Any]:
    folder.mkdir()
    assert reading.values(given, metric, folder) == {"rows": (folder / ROWS).stat().st_size // 8, "left_out": 0}
    return reading.pairs(
        given,
        folder,
        metric=metric,
        digests=["one", "two"],
        grouped=False,
        by=None,
        kind="rows",
        detect=None,
        examples=3,
    )


def test_many_rows_are_compared_apart_with_the_same_answer(apart: RowReading, tmp_path: Path) -> None:
    given = targets(tmp_path, _MANY)
    truth = compared(RowReading(apart=False), given, tmp_path / "here")
    with traced() as peak_bytes:
        found = compared(apart, given, tmp_path / "apart")
        assert peak_bytes() < _MIB
    assert found == truth
    assert found["pairs"][0]["better"] == "a@v2"
    assert found["means"] == pytest.approx([1 / 2, 1 / 3], abs=1e-4)
    assert [one["row"] for one in found["changed"]] == [2, 3, 4]
    assert apart.pid is not None


def test_many_rows_are_sliced_apart_with_the_same_answer(apart: RowReading, tmp_path: Path) -> None:
    path, dataset = scores(tmp_path / "scores", _MANY, 2), tmp_path / "rows.jsonl"
    dataset.write_text("".join(f'{{"lang":"{"de" if row % 4 else "en"}"}}\n' for row in range(_MANY)))
    truth = RowReading(apart=False).slices(path, "id", dataset=dataset, column="lang")
    with traced() as peak_bytes:
        found = apart.slices(path, "id", dataset=dataset, column="lang")
        assert peak_bytes() < _MIB
    assert found == truth
    assert [(one.value, one.rows, one.metrics["acc"]) for one in found] == [
        ("de", 3 * _MANY // 4, pytest.approx(1 / 3)),
        ("en", _MANY // 4, 1.0),
    ]


def test_few_rows_are_compared_in_this_process(tmp_path: Path) -> None:
    reading = RowReading(apart=True)
    compared(reading, targets(tmp_path, 100), tmp_path / "here")
    assert reading.pid is None


@pytest.mark.parametrize("names", [0, 199])
def test_what_is_compared_and_sliced_in_this_process_takes_little_memory(tmp_path: Path, names: int) -> None:
    dataset, given = tmp_path / "rows.jsonl", []
    for number in range(2):
        lines, size = [], 0
        while size < INLINE_BYTES // 2 - 4000:
            row = len(lines)
            scored = "".join(f',"{row * names + name:x}":1' for name in range(names))
            lines.append(
                f'{{"row":{row},"tokens":1,"loss_sum":{(row * (number + 2)) % 7},"scores":{{"f":1{scored}}}}}\n'
            )
            size += len(lines[-1])
        path = tmp_path / str(number)
        path.write_bytes(gzip.compress("".join(lines).encode()))
        given.append((f"a@v{number}", str(number), str(path)))
    dataset.write_text("".join(f'{{"a":{row % 50}}}\n' for row in range(len(lines))))
    reading = RowReading(apart=True)
    with traced() as peak_bytes:
        compared(reading, given, tmp_path / "compared", metric="loss")
        assert len(reading.slices(Path(given[0][2]), "0", dataset=dataset, column="a")) == min(50, len(lines))
        assert peak_bytes() < MOST_HELD_BYTES
    assert reading.pid is None


def test_what_packs_well_is_not_taken_for_few(tmp_path: Path) -> None:
    given = targets(tmp_path, 100)
    padded = Path(given[0][2])
    padded.write_bytes(gzip.compress(b'{"row":0,"tokens":1' + b" " * 50_000 + b"}\n") * 40)
    reading = RowReading(apart=True)
    try:
        with pytest.raises(Verification, match="the rows of the scores 'id2' can't be read: line 2: row 0 comes after"):
            compared(reading, given, tmp_path / "apart")
        assert reading.pid is not None
    finally:
        reading.close()


def test_faults_of_scores_are_the_same_errors(apart: RowReading, tmp_path: Path) -> None:
    given = targets(tmp_path, _MANY)
    for number, reading in enumerate((apart, RowReading(apart=False))):
        with pytest.raises(Invalid, match=r"the rows of a@v2 have no 'bleu'; they have: loss, acc;") as caught:
            compared(reading, given, tmp_path / str(number), metric="bleu")
        assert caught.value.param == "metric"
