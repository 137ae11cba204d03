"""How much of a file of rows is in memory at once, and that what is read costs in proportion to it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdk.formats.messages import parse_json
from sdk.formats.row_bounds import MOST_KEYS, MOST_LINE_BYTES, MOST_TEXT_BYTES
from sdk.formats.rows import BadRow, Row, RowsError, check_rows, judge_rows, text_values

ROW = b'{"prompt": "p", "completion": "c"}\n'


def write(folder: Path, name: str, content: bytes) -> Path:
    """Return a file with this content."""
    path = folder / name
    path.write_bytes(content)
    return path


def judged(path: Path) -> list[Row | BadRow]:
    """Return what is found in a file."""
    return list(judge_rows(text_values(path)))


def peak_bytes(call: Callable[[], Any]) -> int:
    """Return how much memory a call takes at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def processor_s(call: Callable[[], Any]) -> float:
    """Return how much processor time a call takes."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def key_twice(count: int) -> str:
    """Return a JSON object with this many keys, of which only the last two are the same."""
    return "{" + ", ".join(f'"k{min(number, count - 2)}": 0' for number in range(count)) + "}"


def columns_twice(folder: Path, count: int) -> Path:
    """Return a CSV file whose header has this many columns, of which only the last two are the same."""
    return write(folder, f"{count}.csv", ",".join(f"k{min(number, count - 2)}" for number in range(count)).encode())


# Work in proportion: 50,000 keys took 25 s, and take 0.02 s.


def test_key_that_occurs_twice_among_many_is_found_in_one_pass() -> None:
    def parse() -> None:
        with pytest.raises(ValueError, match="it has the key 'k49998' twice"):
            parse_json(key_twice(50_000))

    assert processor_s(parse) < 2


def test_first_of_several_keys_that_occur_twice_is_named() -> None:
    with pytest.raises(ValueError, match="it has the key 'a' twice"):
        parse_json('{"a": 1, "b": 2, "b": 3, "a": 4}')


def test_header_of_very_many_columns_is_refused_in_one_pass(tmp_path: Path) -> None:
    path = columns_twice(tmp_path, 50_000)

    def read() -> None:
        with pytest.raises(RowsError, match="the dataset has 50000 columns, and a file may have 1,000; leave out"):
            judged(path)

    assert processor_s(read) < 2


def test_column_that_occurs_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="the dataset has the column 'k998' twice"):
        judged(columns_twice(tmp_path, MOST_KEYS))


# Memory: no line is in memory before its length is known.


def test_line_that_is_too_long_is_a_bad_row_and_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(ROW + b'{"prompt": "p", "completion": "')
        for _ in range(12):
            file.write(b"c" * (8 << 20))
        file.write(b'"}\n' + ROW)
    found: list[Row | BadRow] = []
    assert peak_bytes(lambda: found.extend(judged(path))) < 40 << 20
    assert [row.where for row in found] == ["line 1", "line 2", "line 3"]
    assert found[1] == BadRow(
        "line 2", "has more than 16 MiB, the most that a row may have; divide or shorten it", False
    )


def test_line_of_csv_that_is_too_long_ends_the_file_and_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", b"prompt,completion\np," + b"c" * (48 << 20))

    def read() -> None:
        with pytest.raises(
            RowsError, match=r"the row that begins in line 2 .* has more than 16 MiB, .*; close its quotes"
        ):
            judged(path)

    assert peak_bytes(read) < 80 << 20


def test_quote_that_is_never_closed_does_not_take_the_whole_file_into_one_row(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", b'prompt,completion\np,c\np,"c\n' + (b"p," + b"c" * (1 << 20) + b"\n") * 48)

    def read() -> None:
        with pytest.raises(RowsError, match=r"the row that begins in line 3 .*; close its quotes, or shorten it"):
            judged(path)

    assert peak_bytes(read) < 120 << 20


def test_value_of_a_list_that_is_too_long_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", b"[" + ROW + b', {"prompt": "' + b"p" * (40 << 20) + b'"}]')

    def read() -> None:
        with pytest.raises(RowsError, match="or the row that begins in line 2 has more than 16 MiB"):
            judged(path)

    assert peak_bytes(read) < 160 << 20


def test_number_without_an_end_is_not_read_over_and_over(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", b"[" + b"1" * (48 << 20))

    def read() -> None:
        with pytest.raises(RowsError, match="is not a JSON list of rows"):
            judged(path)

    assert peak_bytes(read) < 80 << 20


# What is beyond the bounds is a bad row.


def test_row_with_too_many_keys_is_a_bad_row(tmp_path: Path) -> None:
    row = b"{" + b", ".join(b'"%d": 1' % number for number in range(MOST_KEYS + 1)) + b"}"
    for name, content in (("rows.jsonl", ROW + row), ("rows.json", b"[" + ROW + b"," + row + b"]")):
        (_, bad) = judged(write(tmp_path, name, content))
        assert bad.fault == "has 1001 keys, and a row may have 1,000; leave out what is not needed"


@pytest.mark.parametrize("letter", ["c", "é"])
def test_text_that_is_too_long_is_a_bad_row(tmp_path: Path, letter: str) -> None:
    text = letter * (MOST_TEXT_BYTES // len(letter.encode()))
    for name, form in (
        ("rows.jsonl", '{"prompt": "p", "completion": "%s"}'),
        ("rows.json", '[{"prompt": "p", "completion": "%s"}]'),
        ("rows.csv", "prompt,completion\np,%s"),
    ):
        (whole,) = judged(write(tmp_path, name, (form % text).encode()))
        assert isinstance(whole, Row)
        (bad,) = judged(write(tmp_path, name, (form % (text + "c")).encode()))
        assert bad.fault == "has a text of more than 8 MiB, the most that a text may have; divide or shorten it"


def test_longest_line_is_read(tmp_path: Path) -> None:
    half = (MOST_LINE_BYTES - 40) // 2
    line = b'{"prompt": "%s", "completion": "%s"}' % (b"p" * half, b"c" * half)
    assert MOST_LINE_BYTES - 10 < len(line) < MOST_LINE_BYTES
    assert len(list(check_rows(text_values(write(tmp_path, "rows.jsonl", line + b"\n" + ROW))))) == 2


def test_rows_of_csv_over_several_lines_are_named_by_their_first(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", b'prompt,completion\r\n"p\r\nq",c\r\n\r\np\r\np,c\r\n')
    assert [where for where, _ in text_values(path)] == ["line 2", "line 5", "line 6"]
