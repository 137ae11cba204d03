"""The thread that forwards points to a tracker: everything arrives once, and nothing waits for a tracker that doesn't answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any

import pytest
from support.fixtures import Limits
from support.points import points_of
from support.waiting import wait_until

from sdk.schemas.series import Point, PointChunk
from sdk.schemas.trackers import TrackedRun
from workers.kinds.points import HeldPoints
from workers.trackers import forwarding
from workers.trackers.forwarding import Forwarder
from workers.trackers.tracker import BegunRun, RunEnd, Training

TRAINING = Training("0a1b", "team/reviews", {"lr": 0.1})


class Notebook:
    """A tracker that writes down what it is given, and may be made to fail or hang."""

    def __init__(self) -> None:
        self.runs: list[str | None] = []
        self.points: list[Point] = []
        self.times: list[float] = []
        self.ends: list[RunEnd | None] = []
        self.knows_runs = True
        self.before: Callable[[str], None] = lambda call: None

    def begin(self, training: Training, run: str | None) -> BegunRun:
        self.before("begin")
        self.runs.append(run)
        return BegunRun(run or "new", continues=run is not None and self.knows_runs)

    def log(self, points: Sequence[Point], at_s: float) -> None:
        self.times.append(at_s)
        self.before("log")
        self.points += points

    def end(self, end: RunEnd | None) -> None:
        self.before("end")
        self.ends.append(end)

    @property
    def by_step(self) -> dict[int, Point]:
        """The newest of each step."""
        return {point.step: point for point in self.points}


class Points(HeldPoints):
    """The points of an attempt, of which two threads make use."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = Lock()

    def apply(self, chunk: PointChunk) -> None:
        with self._guard:
            super().apply(chunk)

    def after(self, step: int) -> list[Point]:
        with self._guard:
            return super().after(step)


class Desk:
    """A forwarder with what a child has reported and what was said."""

    def __init__(self, run: TrackedRun | None = None) -> None:
        self.held = Points()
        self.said: list[str] = []
        self.noted: list[TrackedRun] = []
        self.forwarder = Forwarder(
            "wandb",
            TRAINING,
            self.held,
            run=run,
            tell=self.said.append,
            note=lambda name, run: self.noted.append(run),
        )
        self.forwarder.start()

    def report(self, points: Sequence[Point], after: int | None = None) -> None:
        """Report points, by default one by one, as a child does."""
        chunks = [PointChunk(after=point.step - 1, points=[point]) for point in points]
        for chunk in chunks if after is None else [PointChunk(after=after, points=list(points))]:
            self.held.apply(chunk)
            self.forwarder.measured(chunk)

    def finish(self, end: RunEnd | None = "finished", within_s: float = 30) -> float:
        """End it; return how long that took."""
        began = time.monotonic()
        self.forwarder.end(end)
        self.forwarder.settle(began + within_s)
        self.forwarder.say_left()
        self.forwarder.abandon()
        return time.monotonic() - began


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> Notebook:
    notebook = Notebook()
    monkeypatch.setattr(forwarding, "tracker", lambda name: notebook)
    limits(forwarding, _EVERY_S=0.02, _AGAIN_S=0.05)
    return notebook


def test_all_points_are_forwarded_in_order_and_the_run_ends(notebook: Notebook) -> None:
    desk, points = Desk(), points_of(range(1, 3_001), names=("loss", "lr"))
    desk.report(points)
    desk.finish()
    assert notebook.points == points
    assert notebook.ends == ["finished"]
    assert desk.said == ["forwarding the series to wandb, run new"]
    assert desk.noted[-1] == TrackedRun(run="new", step=3_000)


def test_a_step_that_is_reported_again_is_forwarded_again(notebook: Notebook) -> None:
    desk = Desk()
    desk.report(points_of(range(1, 4)))
    wait_until(lambda: len(notebook.points) == 3, lambda: str(notebook.points))
    scored = Point(step=3, values={"loss": 1.0, "eval_loss": 0.5})
    desk.report([scored])
    desk.finish()
    assert notebook.points == [*points_of(range(1, 4)), scored]


def test_steps_that_are_replaced_while_a_batch_is_on_its_way_are_forwarded_again(notebook: Notebook) -> None:
    hung, go_on = Event(), Event()

    def hang(call: str) -> None:
        if call == "log" and not hung.is_set():
            hung.set()
            go_on.wait(60)

    notebook.before = hang
    desk, later = Desk(), points_of(range(2, 6), seed=3)
    desk.report(points_of(range(1, 5)))
    hung.wait(60)
    desk.report(later)
    go_on.set()
    desk.finish()
    assert [notebook.by_step[step] for step in range(1, 6)] == [*points_of(range(1, 2)), *later]


def test_an_attempt_that_resumes_forwards_what_is_new(notebook: Notebook) -> None:
    desk = Desk(TrackedRun(run="earlier", step=30))
    desk.report(points_of(range(1, 21)), after=-1)
    replaced = points_of(range(21, 41), seed=5)
    desk.report(replaced)
    desk.finish()
    assert notebook.runs == ["earlier"]
    assert notebook.points == replaced


def test_an_attempt_that_resumes_forwards_what_the_lost_one_could_not(notebook: Notebook) -> None:
    desk, points = Desk(TrackedRun(run="earlier", step=7)), points_of(range(1, 21))
    desk.report(points, after=-1)
    desk.finish()
    assert notebook.points == points[6:]


def test_an_attempt_that_resumes_forwards_the_scores_of_the_last_step_that_was_forwarded(notebook: Notebook) -> None:
    scored = Point(step=20, values={"loss": 1.0, "eval_loss": 0.5})
    desk = Desk(TrackedRun(run="earlier", step=20))
    desk.report([*points_of(range(1, 20)), scored], after=-1)
    desk.finish()
    assert notebook.points == [scored]


def test_a_run_that_is_gone_gets_all_points_anew(notebook: Notebook) -> None:
    notebook.knows_runs = False
    desk, points = Desk(TrackedRun(run="gone", step=30)), points_of(range(1, 41))
    desk.report(points, after=-1)
    desk.finish()
    assert notebook.points == points


def test_a_batch_that_failed_is_forwarded_again_with_its_time(notebook: Notebook) -> None:
    failing = iter([True, True])

    def fail(call: str) -> None:
        if call == "log" and next(failing, False):
            raise ConnectionError("away")

    notebook.before = fail
    desk, points = Desk(), points_of(range(1, 10))
    desk.report(points)
    wait_until(lambda: len(notebook.points) == 9, lambda: str(notebook.points))
    desk.finish()
    assert notebook.points == points
    assert len(set(notebook.times[:3])) == 1
    assert len(desk.said) == 1


def test_what_a_tracker_that_is_down_lacks_is_counted_with_the_reason_and_no_secret(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")

    def fail(call: str) -> None:
        if call == "log" and len(notebook.points) >= 5:
            raise ConnectionError("no route to https://me:word@host/0123456789abcdef\nsecond line")

    notebook.before = fail
    desk = Desk()
    desk.report(points_of(range(1, 6)))
    wait_until(lambda: len(notebook.points) == 5, lambda: str(notebook.points))
    desk.report(points_of(range(6, 13)))
    assert desk.finish() < 5
    assert desk.said[1:] == ["7 of 12 steps were not forwarded to wandb: ConnectionError: no route to https://…@host/…"]


@pytest.mark.parametrize("where", ["begin", "log", "end"])
def test_a_tracker_that_hangs_delays_the_end_for_a_bounded_time_only(
    notebook: Notebook, limits: Limits, where: str
) -> None:
    go_on, hung = Event(), Event()

    def hang(call: str) -> None:
        if call == where:
            hung.set()
            go_on.wait(60)

    notebook.before = hang
    limits(forwarding, END_S=0.5)
    desk = Desk()
    began = time.monotonic()
    desk.report(points_of(range(1, 1_001)))
    assert time.monotonic() - began < 5
    if where != "end":
        hung.wait(30)
    assert desk.finish(within_s=0.5) < 5
    said = (
        "all 1000 steps were forwarded to wandb, but not the end of the run" if where == "end" else "1000 of 1000 steps"
    )
    assert desk.said[-1].startswith(said)
    assert desk.said[-1].endswith("it did not answer in time")
    # Whatever it does later, another attempt has the job.
    go_on.set()
    desk.forwarder._background.end(30)
    assert desk.noted == ([] if where == "begin" else desk.noted[:1] if where == "log" else desk.noted)


def test_a_run_that_begins_late_is_noted_before_anybody_ends_and_its_points_are_still_to_come(
    notebook: Notebook,
) -> None:
    goes_on, desk = Event(), Desk()
    notebook.before = lambda call: time.sleep(0.3) if call == "begin" else (goes_on.wait(60), None)[1]
    desk.report(points_of(range(1, 4)))
    desk.forwarder.end("finished")
    desk.forwarder.settle_begin(time.monotonic() + 60)
    assert desk.noted == [TrackedRun(run="new", step=-1)]
    desk.forwarder.say_left(time.monotonic() + 60)
    assert desk.said[1:] == ["3 of 3 steps were not forwarded to wandb yet: it did not answer in time"]
    goes_on.set()
    desk.finish()
    assert len(notebook.points) == 3


def test_a_tracker_without_its_library_is_said_and_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(forwarding, "tracker", missing)
    desk = Desk()
    desk.report(points_of(range(1, 4)))
    desk.finish()
    assert desk.said == ["3 of 3 steps were not forwarded to wandb: ModuleNotFoundError: No module named 'wandb'"]


def test_a_training_that_ends_before_its_first_step_makes_no_run(notebook: Notebook) -> None:
    desk = Desk()
    desk.finish("failed")
    assert (notebook.runs, notebook.ends, desk.said) == ([], [], [])


def test_an_attempt_that_was_lost_says_nothing_and_leaves_the_run(notebook: Notebook) -> None:
    desk = Desk()
    desk.report(points_of(range(1, 4)))
    wait_until(lambda: len(notebook.points) == 3, lambda: str(notebook.points))
    desk.forwarder.abandon()
    desk.forwarder._background.end(30)
    assert notebook.ends == [None]


def test_a_run_that_ended_well_ends_otherwise_if_its_version_could_not_be_published(notebook: Notebook) -> None:
    desk = Desk()
    desk.report(points_of(range(1, 4)))
    desk.finish()
    desk.forwarder.correct("failed")
    assert notebook.runs == [None, "new"]
    assert notebook.ends == ["finished", "failed"]
