"""A training that is made again says what is otherwise than its record has it, and holds its base as the record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.trainings import run_training

from sdk.schemas.events import Progress
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord
from workers.pipelines.training.loop import LOOP

pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = TrainingSpec(method="lora", rank=2, max_steps=1, batch_size=2, grad_accum=1)


def run(tmp_path: Path, ran_with: dict[str, Any]) -> tuple[list[Progress], Any]:
    seen: list[Progress] = []
    base = tmp_path / "base"
    like = RecordedTraining(ref="sql@v3", digest="a" * 64, ran_with=ran_with)
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 4)
    given = {"base_name": "tiny", "on_progress": seen.append, "like": like}
    return seen, run_training(
        base if base.is_dir() else tiny.save_llama(base), rows, tmp_path / "out", spec=SPEC, **given
    )


def test_what_is_otherwise_is_named_before_the_first_step(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    given = {"torch": "1.0", "threads": 99, "dtype": "float32", "device": "cuda", "base": "other", "of_tomorrow": 1}
    # As of a record that an earlier release made.
    given |= TrainingRecord.read({}).ran_with()
    seen, report = run(tmp_path, given)
    (said,) = [progress.message for progress in seen if progress.phase == "check"]
    assert said == (
        f"other than sql@v3 had: torch 1.0 → {report.libraries['torch']}, threads 99 → {threads}, device cuda → cpu, base other → tiny, loop none → {LOOP}"
    )
    phases = [progress.phase for progress in seen]
    assert phases.index("check") < phases.index("train")
    # All of it is in the record that this training makes.
    made = {**report.libraries, **report.record.ran_with()}
    seen, _ = run(tmp_path, made)
    assert [progress.message for progress in seen if progress.phase == "check"] == [
        "libraries, device and samples are those of sql@v3"
    ]


def test_the_base_is_held_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.pipelines.training import train as training

    held: list[Any] = []

    def load(*given: Any, **named: Any) -> Any:
        held.append(named["held"])
        raise NotImplementedError

    monkeypatch.setattr(training, "load_base", load)
    for recorded, expected in (("packed", "packed"), ("wide", "wide"), ("native", None), (7, None)):
        with pytest.raises(NotImplementedError):
            run(tmp_path, {"base_weights": recorded})
        assert held[-1] == expected
