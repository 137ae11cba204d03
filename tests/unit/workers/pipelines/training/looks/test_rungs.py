"""Trainings of a sweep: what they tell at rungs, when they end, and that nothing else changes by it."""

from __future__ import annotations

import time
from collections.abc import Callable
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
HALVING = SweepPlace(sweep="3f1c", number=2, rungs=[0.1, 0.4])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    others = [{"prompt": f"name {n} of {word}: ", "completion": word[::-1]} for n, word in enumerate(tiny.WORDS * 2)]
    labelled = [{"text": f"{word} and {word}", "label": "xy"[at % 2]} for at, word in enumerate(tiny.WORDS)]
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


@pytest.fixture
def train(llama_base: Path, rows: dict[str, Path], tmp_path: Path) -> Callable[..., Trained]:
    def train(name: str, sweep: Sweep | None = None, *, writing: Checkpoints | None = None, **options: Any) -> Trained:
        learnt = rows[options.get("objective", "sft")]
        held_out = rows[options.get("objective", "held out")]
        kept = writing or (Checkpoints if sweep is None else sweep.kept)(tmp_path / f"{name}-kept", every_steps=1)
        given = {"eval_data": held_out, "checkpoints": kept, **QUICK, **options}
        if sweep is not None:
            given = {"sweep": HALVING, "wait_s": 60.0, **given}
        return run_training(llama_base, learnt, tmp_path / name, **given)

    return train


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
        # 0.1 · 30 is a little more than 3 in floating point.
        ([0.1, 0.4], 30, [3, 12]),
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
        {"eval_every": "7"},
        {"eval_every": "7", "keep": "last", "eval_rows": 5, "samples": 1},
        {"eval_every": "4", "patience": 2},
        {"eval_every": "7", "objective": "dpo", "lr": 0.005},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_member_that_is_not_pruned_has_the_bytes_of_a_training_without_rungs(
    train: Callable[..., Trained], tmp_path: Path, options: dict[str, Any]
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
    train: Callable[..., Trained], tmp_path: Path
) -> None:
    options = {"eval_every": "9"}
    alone = train("alone", **options)
    each = {look.step: look.scores["loss"] for look in train("each", eval_every="1").looks if look.step}
    lowest = min(each, key=lambda step: each[step])
    assert lowest not in {look.step for look in alone.looks}
    rung = SweepPlace(sweep="3f1c", number=2, rungs=[lowest / 20])
    sweep = Sweep({0: True})
    member = train("member", sweep, sweep_place=rung, **options) if False else train(
        "member", sweep, **{**options, "sweep": rung}
    )
    assert sweep.asked == [(0, lowest, each[lowest])]
    assert member.record.best_step == alone.record.best_step
    assert weights(tmp_path / "member") == weights(tmp_path / "alone")
