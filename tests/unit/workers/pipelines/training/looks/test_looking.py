"""Looks at held-out rows while a training goes on: nothing changes by them, and what they choose is what was there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import tiny
from support.trainings import LABELLED, PREFERENCES, Checkpoints, run_training, save_jsonl

from sdk.schemas.looks import LookRecord
from sdk.schemas.series import Point, PointChunk
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data import batches
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import Rung
from workers.pipelines.training.checkpoints import Interrupted, Record
from workers.pipelines.training.looks import looking

pytestmark = [pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")]

QUICK: dict[str, Any] = {
    "method": "lora",
    "rank": 4,
    "lr": 0.02,
    "batch_size": 2,
    "grad_accum": 1,
    "max_steps": 6,
    "warmup_ratio": 0.0,
    "seed": 3,
}
#: Trained on by heart: the other rows are predicted better, and then worse.
BY_HEART = {**QUICK, "lr": 0.05, "max_steps": 24, "schedule": "constant"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    others = [{"prompt": f"name {n} of {word}: ", "completion": word[::-1]} for n, word in enumerate(tiny.WORDS * 3)]
    labelled = [{"text": f"{word} and {word}", "label": "xy"[at % 2]} for at, word in enumerate(tiny.WORDS)]
    return {
        "sft": tiny.write_rows(folder / "pairs.jsonl"),
        "held out": save_jsonl(folder / "others.jsonl", others),
        "test": save_jsonl(folder / "test.jsonl", [{**row, "prompt": f"a {row['prompt']}"} for row in others]),
        "dpo": save_jsonl(folder / "preferences.jsonl", PREFERENCES),
        "kto": save_jsonl(folder / "kto.jsonl", LABELLED),
        "orpo": folder / "preferences.jsonl",
        "classify": save_jsonl(folder / "labels.jsonl", labelled),
    }


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


class Watched:
    """A training with looks, and the points that it reported."""

    def __init__(self, base: Path, rows: dict[str, Path], out: Path, **options: Any) -> None:
        self.points: list[Point] = []
        self.out = out
        self.writing = options.pop("writing", None) or Checkpoints(
            out.with_name(f"{out.name}-kept"), measured=self.hear
        )
        data = rows[options.get("objective") or "sft"]
        self.report: TrainingReport = run_training(
            base,
            data,
            out,
            **{"eval_data": rows["held out"], "checkpoints": self.writing, **QUICK, **options},
        )

    def hear(self, chunk: PointChunk) -> None:
        self.points = chunk.applied(self.points)

    @property
    def looks(self) -> list[LookRecord]:
        return self.report.looks


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3},
        {"dropout": 0.2, "packing": "on"},
        {"method": "qlora", "dropout": 0.2},
        {"neftune_noise_alpha": 5.0},
        {"optim": "schedule_free_adamw", "schedule": "constant"},
        {"dropout": 0.2, "samples": 2},
        {"dropout": 0.2, "keep": "last", "eval_rows": 5, "weight_decay": 0.1},
        {"objective": "dpo", "lr": 0.005},
        {"objective": "kto", "lr": 0.005},
        {"objective": "orpo", "dropout": 0.2},
        {"objective": "classify", "dropout": 0.2},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_looks_change_no_byte(llama_base: Path, rows: dict[str, Path], tmp_path: Path, options: dict[str, Any]) -> None:
    if "schedule_free_adamw" in options.values():
        pytest.importorskip("schedulefree")
    held_out = rows[options.get("objective", "held out")]
    plain = {name: value for name, value in options.items() if name not in ("samples", "keep", "eval_rows")}
    run_training(llama_base, rows[options.get("objective", "sft")], tmp_path / "plain", **{**QUICK, **plain})
    watched = Watched(llama_base, rows, tmp_path / "out", eval_every="1", eval_data=held_out, **options)
    assert [look.step for look in watched.looks] == [0, 1, 2, 3, 4, 5, 6]
    assert weights(watched.out) == weights(tmp_path / "plain")
    looked = {point.step: point.values["eval_loss"] for point in watched.points if "eval_loss" in point.values}
    assert looked == {look.step: look.scores["loss"] for look in watched.looks}
    assert [point.step for point in watched.points] == [0, 1, 2, 3, 4, 5, 6]
    if options.get("samples"):
        assert [sample.row for sample in watched.looks[3].samples] == [1, 2]


def test_the_losses_of_rows_give_the_loss_of_all(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    true = looking.scored

    def scored(*given: Any, **named: Any) -> Any:
        seen.append(true(*given, **named))
        return seen[-1]

    monkeypatch.setattr(looking, "scored", scored)
    for objective in ("sft", "dpo", "kto", "orpo", "classify"):
        held_out = rows["held out" if objective == "sft" else objective]
        chosen = None if objective == "sft" else objective
        given = {"objective": chosen, "eval_data": held_out, "eval_every": "1", "max_steps": 2, "lr": 0.005}
        Watched(llama_base, rows, tmp_path / objective, **given)
        found = seen[-1]
        each = found.rows
        assert float(each.losses.sum() / each.weights.sum()) == pytest.approx(found.scores["loss"], rel=1e-9)
        assert len(np.unique(each.losses)) > 3


def test_the_best_weights_are_published(llama_base: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept", every_steps=1)
    given = {**BY_HEART, "eval_every": "2", "keep": "best", "test_data": rows["test"], "writing": kept}
    found = Watched(llama_base, rows, tmp_path / "out", **given)
    trained = [look for look in found.looks if look.step]
    best = min(trained, key=lambda look: look.scores["loss"])
    assert 0 < best.step < 24
    assert found.report.record.best_step == best.step
    of_step = load_file(tmp_path / "kept" / f"step-{best.step:08d}" / "adapter_model.safetensors")
    published = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, of_step[name]) for name, tensor in published.items())
    metrics = found.report.metrics
    assert metrics["eval_loss"] == pytest.approx(best.scores["loss"], rel=1e-6)
    assert metrics["eval_loss_best"] == best.scores["loss"] < metrics["eval_loss_end"] == trained[-1].scores["loss"]
    assert metrics["eval_margin"] == pytest.approx(metrics["eval_loss_end"] - metrics["eval_loss_best"], rel=1e-6)
    assert metrics["eval_margin_low"] < metrics["eval_margin"] < metrics["eval_margin_high"]
    assert metrics["test_loss"] != metrics["test_loss_base"]
    last = Watched(llama_base, rows, tmp_path / "last", **{**BY_HEART, "eval_every": "2"})
    assert weights(last.out) == (tmp_path / "kept" / "step-00000024" / "adapter_model.safetensors").read_bytes()
    assert (last.report.record.best_step, last.report.metrics["eval_loss_best"]) == (None, best.scores["loss"])


def test_patience_ends_a_training_and_goes_on_after_a_kill(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    given = {**BY_HEART, "eval_every": "2", "patience": 2, "dropout": 0.1}
    whole = Watched(llama_base, rows, tmp_path / "whole", **given)
    best, stopped = whole.report.record.best_step, whole.report.record.stopped_step
    assert best is not None
    assert stopped == best + 4 < 24
    assert whole.report.metrics["steps"] == stopped
    # At the best look, in the middle of one, and when patience has ended.
    for place, stop in enumerate((best, best + 1, stopped)):
        parts = interrupted(llama_base, rows, tmp_path / str(place), stop, given)
        resume = Checkpoints(tmp_path / f"more-{place}", resume=parts)
        again = Watched(llama_base, rows, tmp_path / f"again-{place}", writing=resume, **given)
        assert weights(again.out) == weights(whole.out)
        assert without_time(again.looks) == without_time(whole.looks)
        assert again.report.record.stopped_step == stopped


def interrupted(base: Path, rows: dict[str, Path], folder: Path, step: int, given: dict[str, Any]) -> Path:
    """The checkpoint of a training that was told to stop after a step."""
    steps = [0]
    kept = Checkpoints(
        folder, must_stop=lambda: steps[-1] >= step, measured=lambda chunk: steps.append(chunk.points[-1].step)
    )
    with pytest.raises(Interrupted):
        Watched(base, rows, folder / "out", writing=kept, **given)
    return max(folder.glob("step-*"))


def without_time(looks: list[LookRecord]) -> list[dict[str, Any]]:
    return [look.model_dump(exclude={"seconds"}) for look in looks]


def test_a_look_that_is_stopped_is_taken_by_who_goes_on(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"eval_every": "3", "dropout": 0.3, "batch_size": 2, "keep": "best"}
    whole = Watched(llama_base, rows, tmp_path / "whole", **given)
    told = [False]

    def stop_in_look(chunk: PointChunk) -> None:
        told[0] = chunk.points[-1].step == 3

    kept = Checkpoints(tmp_path / "kept", must_stop=lambda: told[0], measured=stop_in_look)
    with pytest.raises(Interrupted):
        Watched(llama_base, rows, tmp_path / "part", writing=kept, **given)
    (folder,) = (tmp_path / "kept").glob("step-*")
    record = Record.model_validate_json((folder / "record.json").read_bytes())
    assert (record.step, [look.step for look in record.look_state.looks]) == (3, [0])
    again = Watched(llama_base, rows, tmp_path / "again", writing=Checkpoints(tmp_path / "x", resume=folder), **given)
    assert without_time(again.looks) == without_time(whole.looks)
    assert weights(again.out) == weights(whole.out)


def test_memory_that_runs_out_in_a_look_is_not_the_trainings(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"eval_every": "2", "dropout": 0.3, "batch_size": 4}
    whole = Watched(llama_base, rows, tmp_path / "whole", **given)
    true, calls = batches.example_losses, list[int]()

    def short(model: Any, examples: Any, pad_id: int, rows: int, *rest: Any) -> Any:
        calls.append(rows)
        # The first score is of all rows, and so is the last.
        if 1 < len(calls) < 4 and rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return true(model, examples, pad_id, rows, *rest)

    monkeypatch.setattr(batches, "example_losses", short)
    found = Watched(llama_base, rows, tmp_path / "short", **given)
    assert calls[:5] == [4, 4, 2, 1, 1]
    assert found.report.record.memory_steps is None
    assert weights(found.out) == weights(whole.out)
    assert [look.step for look in found.looks] == [0, 2, 4, 6]


def test_a_process_that_is_killed_in_a_look_leaves_the_training_as_it_was(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"eval_every": "2", "dropout": 0.3, "batch_size": 4, "rung_file": tmp_path / "rung.json"}
    whole = Watched(llama_base, rows, tmp_path / "whole", **given)
    assert Rung.model_validate_json((tmp_path / "rung.json").read_bytes()).look_rows is None
    true, calls = batches.example_losses, list[int]()

    def kill(model: Any, examples: Any, pad_id: int, rows: int, *rest: Any) -> Any:
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(model, examples, pad_id, rows, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(batches, "example_losses", kill)
        with pytest.raises(KeyboardInterrupt):
            Watched(llama_base, rows, tmp_path / "killed", **given)
    rung = Rung.model_validate_json((tmp_path / "rung.json").read_bytes())
    assert (rung.look_rows, rung.fit.micro_rows) == (4, 4)
    seen: list[int] = []

    def spy(model: Any, examples: Any, pad_id: int, rows: int, *rest: Any) -> Any:
        seen.append(rows)
        return true(model, examples, pad_id, rows, *rest)

    monkeypatch.setattr(batches, "example_losses", spy)
    again = Watched(llama_base, rows, tmp_path / "again", killed_on=rung, **given)
    assert seen[1:3] == [2, 2]
    assert again.report.record.memory_steps is None
    assert weights(again.out) == weights(whole.out)
    # With one row at once there is nothing less.
    none = Watched(llama_base, rows, tmp_path / "none", killed_on=rung.model_copy(update={"look_rows": 1}), **given)
    assert [look.step for look in none.looks] == [0, 6]
    assert weights(none.out) == weights(whole.out)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_no_memory_for_a_look_at_all_ends_only_a_training_that_chooses(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    true, calls = batches.example_losses, list[int]()

    def short(model: Any, examples: Any, pad_id: int, rows: int, *rest: Any) -> Any:
        calls.append(rows)
        if 1 < len(calls) < 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return true(model, examples, pad_id, rows, *rest)

    monkeypatch.setattr(batches, "example_losses", short)
    given = {"eval_every": "3", "batch_size": 2, "keep": keep}
    if keep == "best":
        with pytest.raises(PipelineError, match="Memory ran out in the look at step 3") as caught:
            Watched(llama_base, rows, tmp_path / "out", **given)
        assert caught.value.reason == "oom"
    else:
        found = Watched(llama_base, rows, tmp_path / "out", **given)
        assert [look.step for look in found.looks] == [0, 6]


def test_looks_at_some_rows_are_at_the_same_ones(llama_base: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    some = Watched(llama_base, rows, tmp_path / "some", eval_every="2", eval_rows=7)
    more = Watched(llama_base, rows, tmp_path / "all", eval_every="2")
    assert [look.rows for look in some.looks] == [36, 7, 7, 7]
    assert [look.rows for look in more.looks] == [36, 36, 36, 36]
    assert some.report.metrics["eval_loss"] == more.report.metrics["eval_loss"]
    assert some.looks[1].scores["loss"] != more.looks[1].scores["loss"]
    other = Watched(llama_base, rows, tmp_path / "again", eval_every="2", eval_rows=7)
    assert without_time(other.looks) == without_time(some.looks)


def test_ties_and_small_gains_go_to_the_earlier_look() -> None:
    def looks(*losses: float) -> list[LookRecord]:
        return [
            LookRecord(step=step, rows=9, scores={"loss": loss}, seconds=0.1)
            for step, loss in enumerate(losses, start=1)
        ]

    best = looking.best_of(looks(3.0, 2.0, 2.0, 1.95, 1.9))
    assert best is not None
    assert best.step == 5
    for losses, min_delta, step in (
        ((3.0, 2.0, 2.0), 0.0, 2),
        ((3.0, 2.0, 1.95, 1.9), 0.1, 2),
        ((3.0, 2.0, 1.95, 1.85), 0.1, 4),
    ):
        chosen = looking.best_of(looks(*losses), min_delta=min_delta)
        assert chosen is not None
        assert chosen.step == step


def test_minutes_become_steps_once(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    given = {"eval_every": "1m", "max_steps": 8, "keep": "best"}
    monkeypatch.setattr(looking.statistics, "median", lambda values: 29.0)
    heard = {"on_progress": lambda progress: said.append(progress.message or "")}
    kept = Checkpoints(tmp_path / "kept", every_steps=1)
    found = Watched(llama_base, rows, tmp_path / "out", writing=kept, **given, **heard)
    assert "1 minutes are 2 steps; held-out rows are scored after as many" in said
    assert [look.step for look in found.looks] == [0, 4, 6, 8]
    assert found.report.record.look_interval == 2
    # Whoever goes on does not count again.
    monkeypatch.setattr(looking.statistics, "median", lambda values: 1.0)
    resume = Checkpoints(tmp_path / "more", resume=tmp_path / "kept" / "step-00000005")
    again = Watched(llama_base, rows, tmp_path / "again", writing=resume, **given)
    assert without_time(again.looks) == without_time(found.looks)


def test_half_of_what_is_held_out_is_never_chosen_by(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {**BY_HEART, "holdout": 0.5, "eval_data": None, "eval_every": "2"}
    chosen = Watched(llama_base, {**rows, "sft": rows["held out"]}, tmp_path / "best", **given, keep="best")
    plain = Watched(llama_base, {**rows, "sft": rows["held out"]}, tmp_path / "last", **given)
    assert (plain.report.record.held_out_rows, plain.report.record.test_rows) == (18, None)
    assert (chosen.report.record.held_out_rows, chosen.report.record.test_rows) == (9, 9)
    assert chosen.report.record.held_out_digest != chosen.report.record.test_digest
    assert chosen.report.record.training_digest == plain.report.record.training_digest
    assert "test_loss" in chosen.report.metrics
    assert "test_loss" not in plain.report.metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 2, "eval_data": None}, "Patience looks at held-out rows, and there are none; give eval_data"),
        ({"samples": 2, "eval_data": None}, "Samples looks at held-out rows"),
        ({"eval_every": "7"}, "Eval_every is 7 and the training has 6 steps; give fewer than 6"),
        ({"eval_every": "2", "patience": 3}, "Patience 3 never ends a training of 6 steps that looks after every 2"),
        ({"test_data": "sft"}, "12 of the 12 rows of test_data are trained on too"),
        ({"test_data": "held out"}, "36 of the 36 rows of test_data are looked at too"),
    ],
)
def test_what_can_not_be_watched_is_refused_before_the_base_is_loaded(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    if "test_data" in options:
        options = {"test_data": rows[options["test_data"]]}
    phases: list[str] = []
    with pytest.raises(PipelineError, match=message):
        Watched(
            llama_base,
            rows,
            tmp_path / "out",
            **{
                "max_steps": None,
                "epochs": 1.0,
                "on_progress": lambda progress: phases.append(progress.phase),
                **options,
            },
        )
    assert "load" not in phases


def test_samples_of_rows_without_prompts_are_refused(llama_base: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    texts = save_jsonl(tmp_path / "texts.jsonl", [{"text": f"{word} again"} for word in tiny.WORDS])
    with pytest.raises(PipelineError, match="text rows have none; leave samples out"):
        Watched(llama_base, {**rows, "sft": texts}, tmp_path / "out", eval_data=texts, samples=2)


def test_weights_that_score_otherwise_when_read_back_are_not_published(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "fill", lambda model, tensors: None)
    with pytest.raises(PipelineError, match="read back, have the held-out loss"):
        Watched(llama_base, rows, tmp_path / "out", **{**BY_HEART, "eval_every": "2", "keep": "best"})


def test_looks_by_default_take_a_tenth_of_the_rows(llama_base: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    # 60 steps of 2 rows are 120; two looks at 18 rows count as 12.
    few = save_jsonl(
        tmp_path / "few.jsonl", [json.loads(line) for line in rows["held out"].read_text().splitlines()[:18]]
    )
    found = Watched(llama_base, rows, tmp_path / "out", eval_data=few, max_steps=60, lr=0.001)
    assert [look.step for look in found.looks] == [0, 20, 40, 60]
    many = Watched(llama_base, rows, tmp_path / "many", lr=0.001)
    assert [look.step for look in many.looks] == [0, 6]
