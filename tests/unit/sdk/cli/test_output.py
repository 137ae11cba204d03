"""What a person sees: 80 columns, no character that a terminal obeys; what a program sees: one JSON document."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import processes
from support.job_views import job_view

from sdk.cli.commands.jobs.show import advised_next
from sdk.cli.commands.watch import count_of, describe, left_of, watch_all
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.layout import columns_of, cut_to
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import fit, human_bytes, plain, print_json, render, say
from sdk.cli.support.records import print_facts
from sdk.objects import Job
from sdk.schemas.advice import Advice
from sdk.schemas.events import Event, Progress
from sdk.schemas.jobs import JobState, JobView

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=120),
    st.lists(st.text(max_size=20), max_size=4),
)


PROSE = [ListColumn("reason"), ListColumn("note"), ListColumn("message"), ListColumn("what")]


@given(st.lists(st.fixed_dictionaries({one.header: CELLS for one in PROSE}), min_size=1, max_size=4))
def test_a_table_has_80_columns_at_most_and_no_control_characters(rows: list[dict[str, Any]]) -> None:
    lines = Listing(*PROSE, key="reason").drawn(rows, width=80).text.split("\n")
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert line.isprintable()
        assert columns_of(line) <= 80


def test_a_table_is_laid_out_as_people_read_it() -> None:
    rows = [["code-review", 3, 0.123456, True, None], ["team/sql", 12, 10.0, False, ["a", "b"]]]
    assert render(["adapter", "latest", "eval_loss", "gpu", "aliases"], rows).split("\n") == [
        "ADAPTER      LATEST  EVAL LOSS  GPU  ALIASES",
        "code-review       3     0.1235  yes  -",
        "team/sql         12         10  no   a, b",
    ]


def test_only_sentences_are_cut() -> None:
    row = {"id": "3f1c2a9b7d20", "reason": "r" * 100, "size": 12_000}
    listing = Listing(ListColumn("id"), ListColumn("reason"), ListColumn("size"), key="id")
    line = listing.drawn([row], width=80).text.split("\n")[1]
    assert line.startswith("3f1c2a9b7d20  rrr")
    assert line.endswith("…  12.0 kB")
    assert len(line) == 80
    # Where there is no room for what can be read, the least important columns are left out.
    small = listing.drawn([row], width=14)
    assert small.text.split("\n") == ["ID", "3f1c2a9b7d20"]
    assert small.left_out == ("reason", "size")


@given(st.text(alphabet="ab\u0301\u6570", max_size=30), st.integers(1, 12))
def test_what_is_cut_is_the_longest_beginning_with_room_for_the_mark(text: str, width: int) -> None:
    def columns(said: str) -> int:
        return sum(0 if c == "\u0301" else 1 if c.isascii() else 2 for c in said)

    beginnings = [text[:end] for end in range(len(text) + 1)]
    wanted = text if columns(text) <= width else max((b for b in beginnings if columns(b) < width), key=len) + "…"
    assert cut_to(text, width) == wanted


def test_a_line_of_megabytes_is_cut_at_once() -> None:
    # A character at a time from the end, it took hours.
    row = "row " * 200_000
    assert fit(row) == ("row " * 20)[:79] + "…"
    assert [len(line) for line in render(["id", "text"], [["a", row]], cut=1).split("\n")] == [8, 80]


def test_wide_characters_take_two_columns() -> None:
    lines = render(["name", "rows"], [["数据", "x"], ["data", "x"]]).split("\n")
    assert lines[1] == "数据  x"
    assert lines[2] == "data  x"


NAMES = Listing(ListColumn("name"), key="name")
HOSTILE = "a\x1b[2Jb\rc\nd\u202ee\u200bf\x9bg"


def test_characters_that_a_terminal_obeys_are_neutralised(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(HOSTILE) == "a?[2Jb?c?d?e?f?g"
    say(HOSTILE)
    print_facts([("name", HOSTILE), ("list", [HOSTILE]), ("at", "2026-01-02T03:04:05.678Z")])
    NAMES.print("table", [{"name": HOSTILE}], empty="")
    said = capsys.readouterr()
    assert not {"\x1b", "\r", "\u202e", "\u200b", "\x9b"} & set(said.out + said.err)
    assert "at\t2026-01-02T03:04:05.678Z\n" in said.out


def test_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    for style, out, err in (("json", "[]\n", ""), ("quiet", "", ""), ("table", "name\n", "none yet\n")):
        NAMES.print(style, [], empty="none yet")
        said = capsys.readouterr()
        assert (said.out, said.err) == (out, err)


def test_json_is_one_document_of_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": HOSTILE, "more": {"a": [1, None]}}]
    NAMES.print("json", rows, empty="")
    assert json.loads(capsys.readouterr().out) == rows
    print_json({"name": "\ud800"})
    assert json.loads(capsys.readouterr().out) == {"name": "\ud800"}


def test_columns_are_left_out_before_a_name_is_cut() -> None:
    name = "a-namespace/with-an-adapter-of-a-long-name@v12"
    row = ["3f1c2a9b7d20", "running", "training", name, "1, 2 bad", "12 min ago", "step 12 of 1000, loss 1.23"]
    headers = ["id", "state", "kind", "subject", "tries", "age", "note"]
    header, line, *note = render(headers, [row], cut=6, spare=[4, 2, 5, 6]).split("\n")
    assert " ".join(note).startswith("no room for: ")
    assert header.split() == ["ID", "STATE", "SUBJECT"]
    assert name in line
    assert len(line) <= 80
    # As long as there is room, all are there.
    whole = render(headers, [[*row[:3], "a@v1", *row[4:]]], cut=6, spare=[4, 2, 5, 6]).split("\n")
    assert whole[0].split() == [name.upper() for name in headers]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5e12, "5.0 TB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_progress_in_one_line() -> None:
    progress = Progress(phase="train", step=3, total=10, loss=1.23456, tokens_per_s=1234.5, memory_bytes=2_500_000_000)
    assert describe(progress) == "loss 1.235 · 1,234 tokens/s · 2.5 GB"
    assert describe(Progress(phase="load", message="starting")) == "starting"
    assert describe(Progress(phase="load")) == ""


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({}, ""),
        ({"step": 3}, "3/? steps"),
        ({"step": 3, "total": 10, "unit": "rows"}, "3/10 rows"),
        ({"step": 1_200_000, "total": 9_000_000, "unit": "bytes"}, "1.2 MB/9.0 MB"),
        ({"step": 1_200_000, "unit": "bytes"}, "1.2 MB"),
    ],
)
def test_counts_for_people(progress: dict[str, Any], text: str) -> None:
    assert count_of(Progress(phase="x", **progress)) == text


@pytest.mark.parametrize(
    ("eta_s", "text"),
    [(None, ""), (12.4, "12 s left"), (300, "5 min left"), (3599, "1 h 00 min left"), (7500, "2 h 05 min left")],
)
def test_time_left_for_people(eta_s: float | None, text: str) -> None:
    assert left_of(Progress(phase="x", eta_s=eta_s)) == text


NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Registry:
    """A registry that knows one job, whose events it tells one by one."""

    def __init__(self, events: list[Event], end: JobState | None) -> None:
        self._events = events
        self._end = end

    @property
    def jobs(self) -> Registry:
        return self

    def events(self, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        return [event for event in self._events if event.seq > after][:1]

    def view(self, job_id: str) -> JobView:
        return view(self._end or JobState.RUNNING)


def view(state: JobState) -> JobView:
    return job_view(state=state, created_at=NOW)


def event(seq: int, *, state: str | None = None, message: str | None = None, progress: Progress | None = None) -> Event:
    kind = "state" if state else "progress"
    return Event(seq=seq, at=NOW, attempt=1, kind=kind, state=state, message=message, progress=progress)


def test_without_a_terminal_a_watch_writes_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        event(1, state="running"),
        event(2, progress=Progress(phase="load", message="starting")),
        event(3, progress=Progress(phase="train", step=1, total=9, loss=2.0, eta_s=12.4)),
        event(4, progress=Progress(phase="train", step=2, total=9, loss=1.9)),
        event(5, progress=Progress(phase="save", message=HOSTILE)),
        event(6, state="succeeded"),
    ]
    job = Job(view(JobState.QUEUED), Registry(events, JobState.SUCCEEDED))  # type: ignore[arg-type]
    watch_all([job])
    said = capsys.readouterr()
    assert said.out == ""
    # Steps that follow each other at once are one line.
    assert said.err.splitlines() == [
        "running",
        "load · starting",
        "train · 1/9 steps · 12 s left · loss 2.000",
        f"save · {plain(HOSTILE)}",
        "succeeded",
    ]


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_the_end_of_a_job(state: JobState) -> None:
    job = Job(view(JobState.QUEUED), Registry([], state))  # type: ignore[arg-type]
    assert job.state is state
    assert (job.error is None) == (state is JobState.SUCCEEDED)


def test_output_may_go_where_there_is_no_unicode() -> None:
    script = "from sdk.cli.support.output import print_json; print_json({'name': 'caf\\u00e9'})"
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = processes.finished(sys.executable, "-c", script, env=env, check=True)
    assert json.loads(done.stdout) == {"name": "caf\u00e9"}


def test_advice_of_a_sweep_s_member_is_followed_by_a_training_of_its_own() -> None:
    advice = [Advice(rule="diverging", message="it diverges; try --lr 0.1", changes={"lr": 0.1})]
    alone = job_view(advice=advice, state=JobState.RUNNING)
    assert "jobs retry" in advised_next(alone)
    said = advised_next(alone.model_copy(update={"request": {"sweep": {"sweep": "3f1c2a9b7d20", "number": 4}}}))
    assert "jobs" not in said
    cancelled = alone.model_copy(update={"state": JobState.CANCELLED, "request": {"sweep": {"sweep": "3f1c2a9b7d20"}}})
    assert str(Job(cancelled, cast(Any, None)).error).endswith("; see: adapterctl sweep show 3f1c2a9b7d20")
    assert said.startswith("sweep:3f1c2a9b7d20/4 is not tried again; to follow its advice, train with lr 0.1: ")
