"""A child that the system killed for lack of memory has a successor in the same attempt, from its last checkpoint on, with less computed at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import tiny

from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import CheckpointPolicy, SweepPlace
from sdk.schemas.series import Point, PointChunk
from sdk.schemas.training import TrainingSpec
from sdk.whole_files import write_whole
from workers.child.process import Child, WarmChild
from workers.child.protocol import OUT_FOLDER, ReachedRung, WrittenCheckpoint, answer_file
from workers.kinds import causes, training
from workers.kinds.attempt import Attempt
from workers.kinds.causes import AttemptFailed, KilledForMemory
from workers.pipelines.orders import Fit, OrderedSource, Rung, TrainingOrder

FOUR = Fit(micro_rows=4, checkpointing=False)
TWO = Fit(micro_rows=2, checkpointing=False)


class Children:
    """What children do one after another, in the folder of an attempt."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *lives: Callable[[Children], Any]) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.orders: list[TrainingOrder] = []
        self._lives = iter(lives)
        monkeypatch.setattr(training, "_run_once", self._live)

    def _live(self, _attempt: Any, order: TrainingOrder, _base: Any, _points: Any, _rungs: Any) -> Any:
        (self.folder / OUT_FOLDER).mkdir()
        self.orders.append(order)
        return next(self._lives)(self)

    def run(self) -> Any:
        attempt: Any = SimpleNamespace(folder=self.folder, lease=SimpleNamespace(log=self.said.append))
        order = TrainingOrder(
            base=Path("/b"),
            base_name="b",
            base_revision=None,
            data=[OrderedSource(path=Path("/d"), name="d")],
            eval_data=None,
            spec=TrainingSpec(),
            template_date="2026-01-31",
            checkpoint=CheckpointPolicy(),
            checkpoints=self.folder / "checkpoints",
            resume=Path("/sent"),
            rung_file=self.folder / "rung.json",
        )
        nothing: Any = None
        return training._run(attempt, order, nothing, nothing, nothing)

    def trains(self, fit: Fit, below: Fit | None, *, steps: list[str], checkpoints: int = 0) -> None:
        rung = Rung(fit=fit, steps=steps, below=below)
        (self.folder / "rung.json").write_text(rung.model_dump_json())
        for step in range(1, checkpoints + 1):
            (self.folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)


def killed(children: Children) -> Any:
    raise KilledForMemory(FailureReason.OOM, "the kernel's OOM killer ended the process")


def killed_while_training(fit: Fit, below: Fit | None, **how: Any) -> Callable[[Children], Any]:
    def live(children: Children) -> Any:
        children.trains(fit, below, **{"steps": [], **how})
        killed(children)

    return live


def test_the_next_child_goes_on_from_the_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(tmp_path, monkeypatch, killed_while_training(FOUR, TWO, checkpoints=2), lambda _: "report")
    assert children.run() == "report"
    first, second = children.orders
    assert (first.resume, first.killed_on) == (Path("/sent"), None)
    assert second.resume == tmp_path / "checkpoints" / "step-00000002"
    assert second.killed_on == Rung(fit=FOUR, steps=[], below=TWO)
    assert children.said == [
        "memory ran out and the system killed the process; another one goes on from the last checkpoint"
    ]


def test_without_a_newer_checkpoint_it_begins_where_the_first_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(tmp_path, monkeypatch, killed_while_training(FOUR, TWO), lambda _: "report")
    children.run()
    assert children.orders[1].resume == Path("/sent")


def test_where_nothing_takes_less_the_attempt_fails_and_names_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = [
        killed_while_training(FOUR, TWO),
        killed_while_training(TWO, None, steps=["killed: 2 rows a pass"]),
    ]
    children = Children(tmp_path, monkeypatch, *lives)
    with pytest.raises(AttemptFailed, match=r"OOM killer .* \(tried: killed: 2 rows a pass\)") as caught:
        children.run()
    assert caught.value.reason == "oom"


def test_a_child_that_did_not_train_yet_has_no_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the one before it wrote is not taken for its own."""
    children = Children(tmp_path, monkeypatch, killed_while_training(FOUR, TWO), killed)
    with pytest.raises(KilledForMemory):
        children.run()
    assert len(children.orders) == 2


def test_a_kill_that_the_kernel_has_not_counted_is_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after, for_memory in ((3, 4, True), (3, 3, False), (None, 4, True), (3, None, True)):
        monkeypatch.setattr(causes, "oom_kills", lambda after=after: after)
        failed = causes.of_status(-signal.SIGKILL, before)
        assert failed.reason == "oom"
        assert isinstance(failed, KilledForMemory) is for_memory


class Lease:
    """What an attempt says, and to nobody."""

    lost = False

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, message: str) -> None:
        self.said.append(message)

    def report(self, progress: Progress) -> None:
        if progress.phase == "fit":
            self.said.append(progress.message or "")


@pytest.mark.slow
def test_a_child_that_is_killed_has_a_successor_that_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real children of a member of a sweep, of which the first is killed once it has passed a rung and written two
    checkpoints, and the kernel counts it.
    """
    kills, pids = [7], list[int]()

    class Sender:
        """Sends nothing, and kills."""

        def __init__(self, *_given: Any, **_rest: Any) -> None:
            self.finish = lambda _within_s: None

        def __enter__(self) -> Sender:
            return self

        def __exit__(self, *_given: object) -> None:
            return None

        def written(self, checkpoint: WrittenCheckpoint) -> None:
            if checkpoint.step == 2 and len(pids) == 1:
                kills[0] += 1
                os.kill(pids[0], signal.SIGKILL)

    class Warm(WarmChild):
        def take(self, folder: Path) -> Child:
            child = super().take(folder)
            pids.append(child.pid)
            return child

    monkeypatch.setattr(training, "CheckpointSender", Sender)
    monkeypatch.setattr(causes, "oom_kills", lambda: kills[0])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lease, quiet = Lease(), SimpleNamespace(watch=lambda *_: None, ignore=lambda: None)
    stop: Any = SimpleNamespace(
        check=lambda: None, reason=lambda: None, may_finish=lambda _: True, remaining_s=lambda most_s: most_s
    )
    given: Any = {"lease": lease, "stop_signal": stop, "inputs": None, "transfers": quiet}
    nothing: Any = None
    (tmp_path / "attempt").mkdir()
    attempt = Attempt(nothing, nothing, **given, warm_child=Warm(warm=False), folder=(tmp_path / "attempt").absolute())
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 8)
    order = TrainingOrder(
        base=tiny.save_llama(tmp_path / "base"),
        base_name="tiny",
        base_revision=None,
        data=[OrderedSource(path=rows, name="rows.jsonl")],
        eval_data=rows,
        spec=TrainingSpec(method="lora", rank=2, dropout=0.0, max_steps=40, batch_size=4, grad_accum=1),
        template_date="2026-01-31",
        checkpoint=CheckpointPolicy(every_steps=1, every_minutes=None),
        checkpoints=attempt.folder / "checkpoints",
        resume=None,
        rung_file=attempt.folder / "rung.json",
        sweep=SweepPlace(sweep="3f1c", number=1, rungs=[1 / 40]),
        wait_s=60.0,
    )
    base: Any = SimpleNamespace(registration=SimpleNamespace(fingerprint="f"))
    chunks: list[PointChunk] = []
    points: Any = SimpleNamespace(measured=chunks.append)
    asked: list[int] = []

    def answer(rung: ReachedRung) -> None:
        asked.append(rung.step)
        write_whole(attempt.folder / answer_file(rung.number), '{"goes_on": true}', durable=False)

    rungs: Any = SimpleNamespace(reached=answer)
    result = training._run(attempt, order, base, points, rungs)
    report = result.report
    assert (asked, None if result.member is None else result.member.outcome) == ([1], "finished")
    assert len(pids) == 2
    assert report.training["memory_steps"] == "killed: 2 rows a pass"
    assert report.training["micro_batch"] == 2
    assert report.training["effective_batch"] == 4
    assert report.metrics["steps"] == 40
    assert report.metrics["resumed_from_step"] >= 2
    # What the second one says replaces what the first had said.
    assert [point.step for point in reduce(lambda had, chunk: chunk.applied(had), chunks, list[Point]())] == [
        *range(41)
    ]
    kept = [said for said in lease.said if "memory" in said]
    assert kept[0] == "memory ran out and the system killed the process; another one goes on from the last checkpoint"
    gone_on = "the system killed the process for lack of memory; it goes on with 2 rows a pass, same effective batch"
    # As progress, and in the job's log.
    assert kept.count(gone_on) == 2
