"""Trainings of a sweep: what they tell at rungs, when they end, and that nothing else changes by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import tiny
from support.trained import Trained
from support.trainings import LABELLED, PREFERENCES, Checkpoints, run_training, save_jsonl

from sdk.schemas.job_requests import SweepPlace
from sdk.schemas.looks import LookRecord
from sdk.statistics.row_sums import unpacked_rows
from workers.pipelines.errors import PipelineError
from workers.pipelines.training.checkpoints import Interrupted, Record
from workers.pipelines.training.looks.rungs import rung_steps

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]

#: Learns its rows by heart: others are predicted better, and then worse.
QUICK: dict[str, Any] = {
    "method": "lora",
    "rank": 4,
    "lr": 0.05,
    "dropout": 0.2,
    "batch_size": 2,
    "grad_accum": 1,
    "max_steps": 20,
    "warmup_ratio": 0.0,
    "schedule": "constant",
    "seed": 3,
    "keep": "best",
}
#: With a look at step 7 and one at 14.
PLAIN = {"eval_every": "7"}
HALVING = SweepPlace(sweep="3f1c", number=2, rungs=[0.1, 0.4])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    others = [{"prompt": f"name {n} of {word}: ", "completion": word[::-1]} for n, word in enumerate(tiny.WORDS * 2)]
    labelled = [{"text": f"{word} and {word}", "label": "xy"[at % 2]} for at, word in enumerate(tiny.WORDS)]
    # Of which a training on short rows learns nothing.
    others.append({"prompt": "x" * 60, "completion": "y"})
    return {
        "sft": tiny.write_rows(folder / "pairs.jsonl"),
        "held out": save_jsonl(folder / "others.jsonl", others),
        "dpo": save_jsonl(folder / "preferences.jsonl", PREFERENCES),
        "orpo": folder / "preferences.jsonl",
        "kto": save_jsonl(folder / "kto.jsonl", LABELLED),
        "classify": save_jsonl(folder / "labels.jsonl", labelled),
    }


class Sweep:
    """Answers the rungs of a training, the first time that somebody looks or only when a step has ended."""

    def __init__(self, answers: dict[int, bool], *, late: dict[int, int] | None = None) -> None:
        self.answers, self.late = answers, late or {}
        self.asked: list[tuple[int, int, float]] = []
        self.step = 0

    def reached(self, number: int, step: int, loss: float) -> None:
        self.asked.append((number, step, loss))

    def goes_on(self, number: int) -> bool | None:
        return self.answers.get(number) if self.step >= self.late.get(number, 0) else None

    def kept(self, folder: Path, **given: Any) -> Checkpoints:
        def measured(chunk: Any) -> None:
            self.step = max(self.step, chunk.points[-1].step)

        return Checkpoints(folder, **{"measured": measured, "reached": self.reached, "goes_on": self.goes_on, **given})


Train = Callable[..., Trained]


def training_in(folder: Path, base: Path, rows: dict[str, Path]) -> Train:
    """What trains into a folder, by a name."""

    def train(name: str, answering: Sweep | None = None, *, place: SweepPlace = HALVING, **options: Any) -> Trained:
        writing = {key: options.pop(key) for key in ("resume", "must_stop") if key in options}
        kept = (Checkpoints if answering is None else answering.kept)(folder / f"{name}-kept", every_steps=1, **writing)
        given = {"eval_data": rows[options.get("objective", "held out")], "checkpoints": kept, **QUICK, **options}
        if answering is not None:
            given = {"sweep": place, "wait_s": 60.0, **given}
        return run_training(base, rows[options.get("objective", "sft")], folder / name, **given)

    return train


@pytest.fixture
def train(llama_base: Path, rows: dict[str, Path], tmp_path: Path) -> Train:
    return training_in(tmp_path, llama_base, rows)


@dataclass(frozen=True)
class Ended:
    """A training that went on to its end, its adapter, and its checkpoints."""

    report: Trained
    out: Path
    kept: Path


@pytest.fixture(scope="module")
def ended(llama_base: Path, rows: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """One without a sweep, and a member of one that was never pruned."""
    folder = tmp_path_factory.mktemp("ended")
    train = training_in(folder, llama_base, rows)
    sweeps = {"alone": None, "member": Sweep({0: True, 1: True})}
    return {
        name: Ended(train(name, sweep, **PLAIN), folder / name, folder / f"{name}-kept")
        for name, sweep in sweeps.items()
    }


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def of_step(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def without_time(looks: list[LookRecord], *, all_of_them: bool = True) -> list[dict[str, Any]]:
    return [look.model_dump(exclude={"seconds"}) for look in looks if all_of_them or not look.for_sweep]


@pytest.mark.parametrize(
    ("shares", "total", "steps"),
    [
        ([0.1, 0.4], 20, [2, 8]),
        ([0.1, 0.4], 31, [4, 13]),
        ([0.1, 0.4], 2, [1, 1]),
        ([0.1, 0.4], 1, []),
        ([number / 10 for number in range(1, 10)], 5, [1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_a_rung_comes_after_its_share_of_the_steps_and_before_the_last(
    shares: list[float], total: int, steps: list[int]
) -> None:
    assert rung_steps(shares, total) == steps


@pytest.mark.parametrize(
    "options",
    [
        {"eval_every": "7", "keep": "last", "eval_rows": 5, "samples": 1},
        {"eval_every": "4", "patience": 2},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_member_that_is_not_pruned_has_the_bytes_of_a_training_without_rungs(
    train: Train, tmp_path: Path, options: dict[str, Any]
) -> None:
    alone = train("alone", **options)
    sweep = Sweep({0: True, 1: True})
    member = train("member", sweep, **options)
    assert weights(tmp_path / "member") == weights(tmp_path / "alone")
    assert without_time(member.looks, all_of_them=False) == without_time(alone.looks)
    assert member.metrics["eval_loss"] == alone.metrics["eval_loss"]
    by_step = {look.step: look for look in member.looks}
    assert sweep.asked == [(number, step, by_step[step].scores["loss"]) for number, step in enumerate([2, 8])]
    assert member.record.looks == sum(look.step > 0 for look in member.looks)
    assert by_step[2].for_sweep
    # An ordinary look that is due anyway is taken instead.
    assert by_step[8].for_sweep == (options["eval_every"] != "4")
    assert {point.step for point in member.points if "eval_loss" in point.values} == by_step.keys()
    assert member.metrics["look_s"] >= by_step[2].seconds
    assert member.member is not None
    assert (member.member.outcome, member.member.surplus_steps) == ("finished", 0)


def test_nothing_is_chosen_by_a_rung_even_if_it_has_the_lowest_loss(
    train: Train, ended: dict[str, Ended], tmp_path: Path
) -> None:
    alone = ended["alone"]
    each = {look.step: look.scores["loss"] for look in train("each", eval_every="1").looks if look.step}
    lowest = min(each, key=lambda step: each[step])
    assert lowest not in {look.step for look in alone.report.looks}
    rung = SweepPlace(sweep="3f1c", number=2, rungs=[lowest / 20])
    sweep = Sweep({0: True})
    member = train("member", sweep, place=rung, **PLAIN)
    assert sweep.asked == [(0, lowest, each[lowest])]
    assert member.record.best_step == alone.report.record.best_step
    assert weights(tmp_path / "member") == weights(ended["member"].out) == weights(alone.out)


def test_a_pruned_training_hands_in_what_it_had_at_the_rung(
    train: Train, ended: dict[str, Ended], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep({0: False})
    pruned = train("pruned", sweep, **PLAIN)
    assert "pruned by sweep 3f1c for its held-out loss at the rung of step 2" in capfd.readouterr().err
    assert weights(tmp_path / "pruned") == weights(of_step(ended["alone"].kept, 2))
    assert (pruned.record.stopped_step, pruned.record.best_step, pruned.metrics["steps"]) == (2, 2, 2)
    assert [(look.step, look.for_sweep) for look in pruned.looks] == [(0, False), (2, False)]
    assert pruned.looks[-1].scores["loss"] == sweep.asked[0][2] == pruned.metrics["eval_loss"]
    assert pruned.metrics["probe_logit_gap"] > 0
    assert pruned.member is not None
    assert (pruned.member.outcome, pruned.member.steps, pruned.member.surplus_steps) == ("pruned", 2, 0)
    assert ended["alone"].report.member is None


def test_a_pruned_training_is_advised_what_it_was_told_on_the_way(train: Train) -> None:
    place = SweepPlace(sweep="3f1c", number=2, rungs=[0.9])
    pruned = train("pruned", Sweep({0: False}), place=place, max_steps=24, warmup_ratio=0.99)
    (told,) = pruned.advice
    assert told.message.startswith("at step 20 of 24, the warm-up takes ")
    assert (pruned.record.advice, pruned.record.stopped_step) == ("warmup", 22)


def test_a_pruned_training_hands_in_its_best_weights(train: Train, tmp_path: Path) -> None:
    place = SweepPlace(sweep="3f1c", number=2, rungs=[0.9])
    pruned = train("pruned", Sweep({0: False}), place=place, eval_every="2")
    best = pruned.record.best_step
    assert best is not None
    assert best < 18
    assert pruned.record.stopped_step == 18
    found, there = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "pruned", of_step(tmp_path / "pruned-kept", best))
    )
    assert all(torch.equal(tensor, there[name]) for name, tensor in found.items())


def test_a_training_goes_on_until_a_late_answer_and_counts_what_it_did_in_vain(
    train: Train, ended: dict[str, Ended], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep({0: True, 1: False}, late={0: 5, 1: 11})
    began = time.perf_counter()
    pruned = train("pruned", sweep, wait_s=0.1, **PLAIN)
    waited_s = time.perf_counter() - began
    assert [(number, step) for number, step, _ in sweep.asked] == [(0, 2), (1, 8)]
    assert pruned.member is not None
    assert (pruned.member.outcome, pruned.member.steps, pruned.member.surplus_steps) == ("pruned", 11, 3)
    assert "has not answered at step 2 yet" in capfd.readouterr().err
    assert weights(of_step(tmp_path / "pruned-kept", 11)) == weights(of_step(ended["alone"].kept, 11))
    # The moments in which it waited are no training.
    assert pruned.metrics["train_s"] <= waited_s - 0.2


def test_a_training_that_has_taken_its_last_step_is_finished_whatever_is_answered_then(
    train: Train, ended: dict[str, Ended], tmp_path: Path
) -> None:
    late = train("late", Sweep({0: True, 1: False}, late={1: 20}), wait_s=0.1, **PLAIN)
    assert late.member is not None
    assert (late.member.outcome, late.member.steps, late.member.surplus_steps) == ("finished", 20, 0)
    assert weights(tmp_path / "late") == weights(ended["alone"].out)


@pytest.mark.parametrize(
    ("answers", "stop", "again"),
    [
        ({}, lambda sweep: len(sweep.asked) > 0, [(0, 2), (1, 8)]),
        ({}, lambda sweep: sweep.step >= 2, [(0, 2), (1, 8)]),
        ({0: True}, lambda sweep: len(sweep.asked) > 0, [(1, 8)]),
    ],
    ids=["while it waits", "in the look", "once it is told"],
)
def test_a_training_that_goes_on_elsewhere_asks_only_what_it_does_not_know(
    train: Train,
    ended: dict[str, Ended],
    tmp_path: Path,
    answers: dict[int, bool],
    stop: Callable[[Sweep], bool],
    again: list[tuple[int, int]],
) -> None:
    whole = ended["member"].report
    first = Sweep(answers)
    with pytest.raises(Interrupted):
        train("first", first, must_stop=lambda: stop(first), **PLAIN)
    folder = of_step(tmp_path / "first-kept", 2)
    record = Record.model_validate_json((folder / "record.json").read_bytes())
    assert record.rungs == [answers.get(0)]
    second = Sweep({0: True, 1: True})
    resumed = train("second", second, resume=folder, **PLAIN)
    assert [(number, step) for number, step, _ in second.asked] == again
    assert second.asked[0][2] == next(look.scores["loss"] for look in whole.looks if look.step == again[0][1])
    assert weights(tmp_path / "second") == weights(ended["member"].out)
    assert without_time(resumed.looks) == without_time(whole.looks)


def test_one_that_is_pruned_while_nobody_trains_it_takes_no_step_more(train: Train, tmp_path: Path) -> None:
    pruned = train("pruned", Sweep({0: False}), **PLAIN)
    folder = of_step(tmp_path / "pruned-kept", 2)
    asked = Sweep({})
    again = train("again", asked, resume=folder, **PLAIN)
    assert (again.member, asked.asked) == (pruned.member, [])
    assert weights(tmp_path / "again") == weights(tmp_path / "pruned")


@pytest.mark.parametrize("objective", ["sft", "dpo", "orpo", "kto", "classify"])
def test_what_each_row_says_gives_the_loss_of_all(train: Train, rows: dict[str, Path], objective: str) -> None:
    options = {} if objective == "sft" else {"objective": objective, "lr": 0.005}
    short = {"max_length": 48} if objective == "sft" else {}
    found = train("member", Sweep({}), place=SweepPlace(sweep="3f1c", number=1), max_steps=6, **options, **short)
    assert found.member is not None
    losses, masses = unpacked_rows(found.member.row_losses), unpacked_rows(found.member.row_weights)
    count = len(rows["held out" if objective == "sft" else objective].read_text().splitlines())
    assert losses.shape == masses.shape == (count,)
    assert (masses == 0).tolist() == [False] * (count - 1) + [objective == "sft"]
    assert losses.sum() / masses.sum() == pytest.approx(found.metrics["eval_loss"], rel=1e-6)
    assert len(np.unique(losses)) > 3


def test_the_number_of_threads_belongs_to_the_training(train: Train, tmp_path: Path) -> None:
    place = SweepPlace(sweep="3f1c", number=1, threads=2)
    before = torch.get_num_threads()
    found = train("two", Sweep({}), place=place, max_steps=2, eval_every="1")
    assert (found.record.threads, torch.get_num_threads()) == (2, before)
    resume = of_step(tmp_path / "two-kept", 1)
    # Where nobody asks for a number it is that of the first machine.
    again = train(
        "again", Sweep({}), place=SweepPlace(sweep="3f1c", number=1), max_steps=2, eval_every="1", resume=resume
    )
    assert (again.record.threads, weights(tmp_path / "again")) == (2, weights(tmp_path / "two"))
    with pytest.raises(PipelineError, match=r"differs in threads \(2 → 3\)"):
        train(
            "three",
            Sweep({}),
            place=place.model_copy(update={"threads": 3}),
            max_steps=2,
            eval_every="1",
            resume=resume,
        )


def test_a_member_without_held_out_rows_is_refused(train: Train) -> None:
    with pytest.raises(PipelineError, match="a sweep looks at held-out rows, and there are none"):
        train("member", Sweep({}), eval_data=None, keep="last")
