"""What a real training is told about itself: on the way, after a resume, and where it diverges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.trainings import Checkpoints, run_training

from sdk.schemas.advice import Advice
from workers.pipelines.data.batches import SFT, loss_sum
from workers.pipelines.data.objectives import MADE
from workers.pipelines.errors import PipelineError
from workers.pipelines.training.checkpoints import Interrupted

QUICK: dict[str, Any] = {"method": "lora", "rank": 4, "lr": 0.01, "batch_size": 2, "grad_accum": 1, "seed": 3}


def told_by(base: Path, out: Path, told: list[list[Advice]], **options: Any) -> Any:
    kept: dict[str, Any] = options.pop("kept", {})

    def hear(advice: Sequence[Advice]) -> None:
        told.append(list(advice))

    writing = Checkpoints(out.with_name(f"{out.name}-kept"), advised=hear, **kept)
    data = tiny.write_rows(out.with_name("rows.jsonl"))
    return run_training(base, data, out, checkpoints=writing, **{**QUICK, **options})


def test_advice_is_told_and_logged_once_on_the_way_and_survives_a_stop(
    llama_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"max_steps": 24, "warmup_ratio": 0.99}
    told: list[list[Advice]] = []
    steps: list[int] = []
    stop = {"must_stop": lambda: len(steps) >= 21, "measured": lambda chunk: steps.append(chunk.points[-1].step)}
    with pytest.raises(Interrupted):
        told_by(llama_base, tmp_path / "part", told, kept=stop, **given)
    ((early,),) = told
    assert early.message.startswith("at step 20 of 24, the warm-up takes ")
    resume = max((tmp_path / "part-kept").glob("step-*"))
    report = told_by(llama_base, tmp_path / "out", told, kept={"resume": resume}, **given)
    # The process that goes on says it again to whoever shows the job, but not in the log.
    assert told == [[early], [early]]
    assert [one.rule for one in report.advice] == ["warmup"]
    assert report.advice[0].message == early.message.removeprefix("at step 20 of 24, ")
    assert report.record.advice == "warmup"
    assert capfd.readouterr().err.count("the warm-up takes") == 1


def test_a_training_that_diverges_says_what_its_loss_did_before(
    llama_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def loss(model: Any, batch: Any, tokens: Any, losses: Any) -> Any:
        made.append(math.nan if len(made) == 3 else 1.0)
        return loss_sum(model, batch, losses) / tokens * made[-1]

    monkeypatch.setitem(MADE, "sft", lambda spec: replace(SFT, loss=loss))
    told: list[list[Advice]] = []
    with pytest.raises(PipelineError, match="The training diverged: the loss is nan at step 4") as caught:
        told_by(llama_base, tmp_path / "out", told, max_steps=8, warmup_ratio=0.0, packing="on", schedule="constant")
    assert caught.value.reason == "diverged"
    assert "a lower learning rate (0.01 → 0.001)" in caught.value.message
    ((found,),) = told
    assert (found.rule, found.changes) == ("diverging", {"lr": 0.001})
    assert found.message.startswith("step 3 of 8 was the last with finite numbers, at a rate of 0.01: the loss was ")
    assert found.message.endswith(" at step 3; try --lr 0.001")
