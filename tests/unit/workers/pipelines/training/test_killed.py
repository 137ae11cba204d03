"""A training that is killed in any phase, and gone on with on another day, ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.trainings import Checkpoints, files_of, run_training

from sdk.lora.memory import chunk_tokens
from sdk.schemas.events import Progress
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # One thread computes, and none is needed in the fork.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

SPEC = TrainingSpec(method="lora", rank=4, dropout=0.2, max_steps=4, lr=0.01, batch_size=2, grad_accum=1, seed=3)
DAY = date(2026, 1, 31)
TURNS = [
    [{"role": "user", "content": f"count to {number}"}, {"role": "assistant", "content": " ".join("12345"[:number])}]
    for number in range(1, 6)
]


class Place:
    """A base whose chat template writes the date, rows of conversations, and what trainings over them made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = tiny.save_llama(folder / "base")
        template = self.base / "chat_template.jinja"
        template.write_text("{{ strftime_now('%d %B %Y') }}\n" + template.read_text())
        self.rows = folder / "rows.jsonl"
        self.like: RecordedTraining | None = None
        self.rows.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in TURNS))

    def run(self, name: str, on_progress: Callable[[Progress], None], resume: Path | None = None) -> int:
        """Train in a fork, with a checkpoint after each step; return how that ended, as `waitpid` says it."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                run_training(
                    self.base,
                    self.rows,
                    self.folder / name / "out",
                    eval_data=self.rows,
                    spec=SPEC,
                    on_progress=on_progress,
                    checkpoints=Checkpoints(self.folder / name / "checkpoints", every_steps=1, resume=resume),
                    day=DAY,
                    like=self.like,
                )
                status = 0
            except Exception:  # noqa: BLE001 - the fork says it and ends
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1]

    def made(self, name: str) -> dict[str, bytes]:
        return files_of(self.folder / name / "out")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("killed"))
    assert place.run("whole", lambda progress: None) == 0
    rendering = json.loads(place.made("whole")["rendering.json"])
    assert rendering["template_date"] == DAY.isoformat()
    return place


@pytest.fixture(scope="module")
def preferring(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("preferring"))
    with place.rows.open("w") as file:
        for asked, answer in TURNS:
            worse = {**answer, "content": answer["content"][::-1] + "!"}
            file.write(json.dumps({"prompt": [asked], "chosen": [answer], "rejected": [worse]}) + "\n")
    assert place.run("whole", lambda progress: None) == 0
    return place


@pytest.mark.parametrize(
    ("phase", "times", "steps"),
    [("data", 1, 0), ("load", 1, 0), ("evaluate", 1, 0), ("train", 3, 2), ("evaluate", 4, 4), ("save", 1, 4)],
)
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(place: Place, phase: str, times: int, steps: int) -> None:
    kill_and_go_on(place, phase, times, steps)


def test_so_does_a_preference_training_that_is_made_again(preferring: Place) -> None:
    vocabulary = json.loads((preferring.base / "config.json").read_text())["vocab_size"]
    recorded = {"base_weights": "native", "threads": 8, "logit_chunk_tokens": chunk_tokens(vocabulary, "cpu")}
    preferring.like = RecordedTraining(ref="tone@v1", ran_with=recorded)
    kill_and_go_on(preferring, "train", 3, 2)


def kill_and_go_on(place: Place, phase: str, times: int, steps: int) -> None:
    name = f"{phase}-{times}"
    left = iter(range(times, 0, -1))

    def kill(progress: Progress) -> None:
        if progress.phase == phase and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(place.run(name, kill)) == signal.SIGKILL
    checkpoints = place.folder / name / "checkpoints"
    kept = sorted(checkpoints.glob("step-*")) if checkpoints.is_dir() else []
    assert len(kept) in (steps, steps + 1)
    assert place.run(name, lambda progress: None, resume=kept[-1] if kept else None) == 0
    assert place.made(name) == place.made("whole")


def test_another_day_is_another_training(place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{__name__}.DAY", date(2026, 2, 1))
    kept = place.folder / "whole" / "checkpoints" / "step-00000002"
    assert os.waitstatus_to_exitcode(place.run("tomorrow", lambda progress: None, resume=kept)) == 1
    assert "2026-01-31 → 2026-02-01" in capfd.readouterr().err
