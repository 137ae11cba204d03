"""What a child says: cleaned, throttled, remembered, and never in the child's way."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.child.output import Output, RateLimiter, clean


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"plain\n", "plain"),
        (b"\x1b[1;31mred\x1b[0m\n", "red"),
        (b"\x1b]0;title\x07shown\n", "shown"),
        (b"\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\\n", "link"),
        (b" 10%\r 50%\r100%|done|\r\n", "100%|done|"),
        (b"a\tb\x00c\x07d\x7f\n", "a bcd"),
        ("turned \u202egnol\u2069 \ufefftext\n".encode(), "turned gnol text"),
        (b"half \xc3\n", "half \ufffd"),
        (b"   \n", ""),
    ],
)
def test_a_line_is_what_anybody_may_print(line: bytes, shown: str) -> None:
    assert clean(line) == shown


def test_a_long_line_is_cut() -> None:
    text = clean(b"x" * 10_000)
    assert len(text) == 500
    assert text.endswith("x…")


@given(st.binary(max_size=300))
def test_no_control_character_is_left(line: bytes) -> None:
    assert clean(line).isprintable() or not any(ord(character) < 32 or character == "\x7f" for character in clean(line))


def test_a_burst_goes_through_and_what_is_left_out_is_counted() -> None:
    rate_limiter = RateLimiter(lines_per_s=0.001, burst=3)
    assert [rate_limiter.lines(str(number)) for number in range(5)] == [["0"], ["1"], ["2"], [], []]
    assert rate_limiter.rest() == ["(2 more lines arrived at once and are left out)"]
    assert rate_limiter.rest() == []


def test_lines_come_again_with_time() -> None:
    rate_limiter = RateLimiter(lines_per_s=1000, burst=1)
    assert rate_limiter.lines("a") == ["a"]
    while not (found := rate_limiter.lines("b")):
        continue
    assert found[-1] == "b"
    assert all("more lines" in line for line in found[:-1])


def test_what_came_before_it_is_attached_is_not_lost(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    output = Output(os.fdopen(reader, "rb"))
    os.write(writer, b"early\n")
    time.sleep(0.1)
    lines: list[str] = []
    with (tmp_path / "log").open("wb") as file:
        output.attach(file, lines.append)
        os.write(writer, b"late\n")
        os.close(writer)
        output.finish(30)
    assert lines == ["early", "late"]
    assert (tmp_path / "log").read_text() == "early\nlate\n"
    assert output.last_words == "early\nlate"


def test_a_full_disk_keeps_nobody_from_reading(tmp_path: Path) -> None:
    lines: list[str] = []
    reader, writer = os.pipe()
    output = Output(os.fdopen(reader, "rb"))
    with open("/dev/full", "wb", buffering=0) as full:
        output.attach(full, lines.append)
        os.write(writer, b"one\ntwo\n")
        os.close(writer)
        output.finish(30)
    assert lines == ["one", "two"]


def test_a_stream_that_stays_open_is_left_after_a_while() -> None:
    reader, writer = os.pipe()
    output = Output(os.fdopen(reader, "rb"))
    output.attach(io.BytesIO(), lambda _line: None)
    output.finish(0.1)
    os.close(writer)
    output.finish(30)
