"""What a real training is told about itself: on the way, after a resume, and where it diverges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.trainings import Checkpoints, run_training

from sdk.schemas.advice import Advice
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


def test_a_training_that_diverges_says_what_its_loss_did_before(llama_base: Path, tmp_path: Path) -> None:
    told: list[list[Advice]] = []
    with pytest.raises(PipelineError, match="The training diverged") as caught:
        told_by(
            llama_base, tmp_path / "out", told, lr=1.0, alpha=1e30, max_steps=8, warmup_ratio=0.0, max_grad_norm=0.0
        )
    assert caught.value.reason == "diverged"
    assert "a lower learning rate (1 → 0.1)" in caught.value.message
    ((found,),) = told
    assert (found.rule, found.changes) == ("diverging", {"lr": 0.1})
    assert "was the last with finite numbers, at a rate of 1: the loss was " in found.message
    assert found.message.endswith("; try --lr 0.1")
