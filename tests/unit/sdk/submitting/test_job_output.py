"""Following jobs: through a registry that goes away, several at once, and no longer than is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from support.fixtures import Limits
from support.job_views import job_view

from sdk.cli.commands.watch import watch_all
from sdk.errors import Incompatible, NotFound, TimedOut, Unauthenticated, Unavailable
from sdk.objects import Job
from sdk.schemas.events import Event, Progress
from sdk.schemas.jobs import JobState, JobView
from sdk.submitting import job_output as module
from sdk.submitting.job_output import follow

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _without_pauses(limits: Limits) -> None:
    limits(module, _AWAY_S=0.01, _ROUND_S=0.01)


class Registry:
    """Answers each question about a job with the next of its script: events, an error, or nothing; then it has ended."""

    def __init__(self, **scripts: Sequence[list[Event] | Exception]) -> None:
        self._scripts = {job: list(script) for job, script in scripts.items()}
        self.asked: list[tuple[str, int, float, int | None]] = []
        #: What the next question about a state is answered with.
        self.trouble: list[Exception] = []

    @property
    def jobs(self) -> Registry:
        return self

    def events(self, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        self.asked.append((job_id, after, wait_s, last))
        step = self._scripts[job_id].pop(0) if self._scripts[job_id] else []
        if isinstance(step, Exception):
            raise step
        return step

    def view(self, job_id: str) -> JobView:
        if self.trouble:
            raise self.trouble.pop()
        return job_view(id=job_id, state=JobState.RUNNING if self._scripts[job_id] else JobState.SUCCEEDED)

    def job(self, job_id: str) -> Job:
        return Job(job_view(id=job_id, state=JobState.QUEUED), self)  # type: ignore[arg-type]


def train(seq: int) -> Event:
    return Event(seq=seq, at=NOW, attempt=1, kind="progress", progress=Progress(phase="train", step=seq, total=99))


def state(seq: int, name: str) -> Event:
    return Event(seq=seq, at=NOW, attempt=1, kind="state", state=name)


AWAY = Unavailable("the registry can't be reached; check that the server runs")


def test_a_registry_that_is_away_is_waited_for_and_said_once() -> None:
    registry = Registry(a=[[train(1)], AWAY, AWAY, AWAY, [train(2)], [], [train(3)]])
    registry.trouble = [AWAY]
    notes: list[str] = []
    seen = [event.seq for _, event in follow([registry.job("a")], note=notes.append) if event is not None]
    assert seen == [1, 2, 3]
    there_and_back = [f"{AWAY.message}; still trying", "the registry answers again"]
    assert notes == there_and_back * 2
    # Nothing is read twice, and nothing passed over.
    assert [after for _, after, _, _ in registry.asked] == [0, 1, 1, 1, 1, 2, 2, 3]


def test_a_pipeline_that_waits_outlives_a_registry_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(a=[[train(1)], AWAY, [train(2)]], b=[[train(1)], AWAY, [train(2)]])
    assert registry.job("a").wait().view.state is JobState.SUCCEEDED
    assert [event.seq for event in registry.job("b").events(follow=True)] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{AWAY.message}; still trying",
        "the registry answers again",
    ] * 2


@pytest.mark.parametrize(
    "error",
    [Unauthenticated("revoked; log in again"), NotFound("gone; see the list"), Incompatible("too old; upgrade")],
)
def test_what_waiting_does_not_mend_ends_it(error: Exception) -> None:
    registry = Registry(a=[[train(1)], error, [train(2)]])
    with pytest.raises(type(error)):
        list(follow([registry.job("a")], note=lambda _: None))


def test_several_are_asked_about_in_turn_and_one_waits_for_news() -> None:
    registry = Registry(a=[[train(1)], []], b=[[train(2)], [train(3)], [train(4)], []])
    ended = []
    for job, event in follow([registry.job("a"), registry.job("b")], note=lambda _: None, last=7):
        if event is None and job.view.state.is_final:
            ended.append(job.id)
    assert ended == ["a", "b"]
    # In turn while there are several; what came before is asked for at first only.
    assert registry.asked[:3] == [("a", 0, 0.0, 7), ("b", 0, 0.0, 7), ("a", 1, 0.0, None)]
    # The one that is left is waited for.
    assert all(job == "b" and wait_s > 0 for job, _, wait_s, _ in registry.asked[3:])


def test_an_end_of_patience_names_who_goes_on() -> None:
    registry = Registry(a=[], b=[[]] * 10_000, c=[[]] * 10_000)
    with pytest.raises(TimedOut, match=r"some jobs have not ended in time: adapterctl jobs watch b c"):
        list(follow([registry.job(name) for name in "abc"], note=lambda _: None, timeout_s=0.3))
    away = Registry(a=[AWAY] * 10_000)
    began = time.monotonic()
    with pytest.raises(TimedOut, match="adapterctl jobs watch a"):
        list(follow([away.job("a")], note=lambda _: None, timeout_s=0.1))
    assert time.monotonic() - began < 30


def test_lines_of_several_say_of_which_job(capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(a=[[state(1, "running")], [train(2)]], b=[[state(3, "failed")]])
    watch_all([registry.job("a"), registry.job("b")])
    said = capsys.readouterr()
    assert said.out == ""
    assert sorted(said.err.splitlines()) == ["a running", "a train · 2/99 steps", "b failed"]


def test_why_a_job_waits_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    class Busy(Registry):
        def view(self, job_id: str) -> JobView:
            found = super().view(job_id)
            waits = "2 jobs go first"
            return found if found.state.is_final else job_view(id=job_id, state=JobState.QUEUED, ahead=2, waits=waits)

    registry = Busy(a=[[state(1, "queued")], [], [], [], []])
    watch_all([registry.job("a")])
    assert capsys.readouterr().err.splitlines() == ["queued", "waits: 2 jobs go first"]
