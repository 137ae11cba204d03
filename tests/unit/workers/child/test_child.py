"""What a child has around it when it carries out an order: a folder of its own, and no network that it was told of."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import processes
from support.processes import environment

from workers.child.output import Output, RateLimiter, clean
from workers.child.protocol import FAULT_FILE, INTERRUPTED_STATUS, ORDER_FILE, Fault
from workers.pipelines.orders import EvaluationOrder

PROGRAM = """
import atexit, os, sys
from workers.child import main as child

# As libraries do that are built for cards.
atexit.register(print, "not all of it was freed", file=sys.stderr)

def carry_out(order, host):
    print(os.getcwd(), os.environ["HF_HUB_OFFLINE"], file=sys.stderr)
    libraries, others = {"bitsandbytes"}, {"transformers", "peft", "accelerate", "workers.pipelines.training.train"}
    if len(sys.argv) == 1:
        assert libraries <= set(sys.modules), "one that waits has imported what takes longest"
        early = not os.environ.get("WAITS")
        assert early != (others <= set(sys.modules)), "and all, unless the order came meanwhile"
        assert not sys.modules["torch"].cuda.is_initialized(), "and touched no card"
    if os.environ.get("FAILS"):
        raise RuntimeError("it failed")

if os.environ.get("WAITS"):
    # The order comes once everything is imported.
    child.select.select = lambda *given: ([], [], [])
child._carry_out = carry_out
child.run()
"""


def run(
    folder: Path, *, cwd: Path, warm: bool = False, line: str | None = None, **variables: str
) -> tuple[int, list[str]]:
    """Be a child with the order in `folder`, or with what it is told in a line; return its status, and what it said."""
    folder.mkdir()
    order = EvaluationOrder(items=[], data=Path("data"), spec={})
    (folder / ORDER_FILE).write_text(order.model_dump_json())
    done = processes.finished(
        sys.executable,
        "-c",
        PROGRAM,
        *([] if warm else [str(folder)]),
        env=environment(HF_HUB_OFFLINE="0", **variables),
        cwd=cwd,
        stdin=f'"{folder}"\n' if line is None else line,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(("warm", "waits"), [(False, ""), (True, "yes"), (True, "")], ids=["cold", "warm", "early"])
def test_a_bare_name_leads_into_the_job_s_folder_and_no_name_to_a_hub(warm: bool, waits: str, tmp_path: Path) -> None:
    if warm:
        pytest.importorskip("torch", reason="a warm child has imported it")
    folder, elsewhere = tmp_path / "job", tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Nothing else: what a library says of itself while it is imported, or at the end, would be among what the job says. The
    # order has no report, as if it had been interrupted.
    assert run(folder, cwd=elsewhere, warm=warm, WAITS=waits) == (INTERRUPTED_STATUS, [f"{folder} 1"])


def test_the_last_that_a_failure_says_is_why(tmp_path: Path) -> None:
    status, said = run(tmp_path / "job", cwd=tmp_path, FAILS="1")
    assert (status, said[0], said[-1]) == (1, f"{tmp_path / 'job'} 1", "RuntimeError: it failed")
    assert Fault.model_validate_json((tmp_path / "job" / FAULT_FILE).read_text()).message.startswith("RuntimeError")


def test_one_that_waited_and_is_not_needed_ends_without_a_word(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="it has imported it")
    assert run(tmp_path / "job", cwd=tmp_path, warm=True, line="") == (0, [])


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
