"""A training that is killed in any phase, and gone on with on another day, ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.killed import DAY, Killable
from support.soak import scale
from support.trainings import save_jsonl

from sdk.lora.memory import chunk_tokens
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.validation import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # One thread computes, and none is needed in the fork.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

SPEC = TrainingSpec(method="lora", rank=4, dropout=0.2, max_steps=4, lr=0.01, batch_size=2, grad_accum=1, seed=3)
TURNS = [
    [{"role": "user", "content": f"count to {number}"}, {"role": "assistant", "content": " ".join("12345"[:number])}]
    for number in range(1, 6)
]


def save_base(folder: Path) -> Path:
    """Write a base whose chat template writes the date."""
    base = tiny.save_llama(folder / "base")
    template = base / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %B %Y') }}\n" + template.read_text())
    return base


@pytest.fixture(scope="module")
def conversing(tmp_path_factory: pytest.TempPathFactory) -> Killable:
    folder = tmp_path_factory.mktemp("conversing")
    rows = save_jsonl(folder / "rows.jsonl", ({"messages": turns} for turns in TURNS))
    training = Killable(folder, save_base(folder), rows, SPEC)
    assert training.run("whole", lambda progress: None) == 0
    rendering = json.loads(training.made("whole")["rendering.json"])
    assert rendering["template_date"] == DAY.isoformat()
    return training


@pytest.fixture(scope="module")
def preferring(tmp_path_factory: pytest.TempPathFactory) -> Killable:
    folder = tmp_path_factory.mktemp("preferring")
    rows = [
        {"prompt": [asked], "chosen": [answer], "rejected": [{**answer, "content": answer["content"][::-1] + "!"}]}
        for asked, answer in TURNS
    ]
    training = Killable(folder, save_base(folder), save_jsonl(folder / "rows.jsonl", rows), SPEC)
    assert training.run("whole", lambda progress: None) == 0
    return training


@pytest.mark.parametrize(
    ("phase", "times", "steps"),
    [("data", 1, 0), ("load", 1, 0), ("evaluate", 1, 0), ("train", 3, 2), ("evaluate", 4, 4), ("save", 1, 4)],
)
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(
    conversing: Killable, phase: str, times: int, steps: int
) -> None:
    require_same_bytes(conversing, phase, times, steps)


def test_so_does_a_preference_training_that_is_made_again(preferring: Killable) -> None:
    vocabulary = json.loads((preferring.base / "config.json").read_text())["vocab_size"]
    recorded = {"base_weights": "native", "threads": 8, "logit_chunk_tokens": chunk_tokens(vocabulary, "cpu")}
    preferring.like = RecordedTraining(ref="tone@v1", ran_with=recorded)
    require_same_bytes(preferring, "train", 3, 2)


def require_same_bytes(training: Killable, phase: str, times: int, steps: int) -> None:
    name = f"{phase}-{times}"
    assert len(training.killed_and_gone_on(name, phase, times)) in (steps, steps + 1)
    assert training.made(name) == training.made("whole")


def test_another_day_is_another_training(conversing: Killable, capfd: pytest.CaptureFixture[str]) -> None:
    kept = conversing.kept("whole")[1]
    ended = conversing.run("tomorrow", lambda progress: None, resume=kept, day=date(2026, 2, 1))
    assert os.waitstatus_to_exitcode(ended) == 1
    assert "2026-01-31 → 2026-02-01" in capfd.readouterr().err


#: Objectives, optimisers, schedules and added tokens, in the ways in which one could lose another's state.
WAYS: dict[str, dict[str, Any]] = {
    **{objective: {"objective": objective} for objective in ("dpo", "ipo", "orpo", "simpo", "kto")},
    "adafactor, wsd": {"optim": "adafactor", "schedule": "wsd"},
    "lion, restarts": {"optim": "lion", "schedule": "cosine_restarts", "cycles": 2},
    "schedule-free": {"optim": "schedule_free_adamw", "schedule": "constant"},
    "inverse root": {"schedule": "inverse_sqrt", "warmup_ratio": 0.3},
    "added tokens": {"add_tokens": "<red>,<blue>", "dropout": 0.0},
    "kto, schedule-free": {"objective": "kto", "optim": "schedule_free_adamw", "schedule": "constant"},
    "orpo, lion, wsd": {"objective": "orpo", "optim": "lion", "schedule": "wsd"},
    "added tokens, adafactor, restarts": {
        "add_tokens": "<red>,<blue>", "optim": "adafactor", "schedule": "cosine_restarts", "cycles": 3, "dropout": 0.0,
    },
}  # fmt: skip
STEPS, ROUNDS = 6, 3
_DRAW = random.Random(7)
#: After how many steps each is killed.
KILLS = [(way, _DRAW.randint(1, STEPS)) for _ in range(ROUNDS) for way in _DRAW.sample(sorted(WAYS), len(WAYS))]


def rows_for(objective: str | None) -> Iterator[dict[str, Any]]:
    for number in range(12):
        colour = ["red", "green", "blue"][number % 3]
        row: dict[str, Any] = {"prompt": f"colour {number} is "}
        if objective == "kto":
            yield {**row, "completion": colour if number % 2 else f"{colour.upper()}!", "label": bool(number % 2)}
        elif objective is not None:
            yield {**row, "chosen": colour, "rejected": f"{colour.upper()}!"}
        else:
            yield {**row, "completion": ("<red>" if number % 2 else "<blue>") + colour}


@pytest.mark.soak
@pytest.mark.parametrize(("way", "steps"), KILLS[: scale(len(KILLS))])
def test_a_training_of_any_kind_that_is_killed_goes_on_to_the_same_bytes(way: str, steps: int, tmp_path: Path) -> None:
    options = {**SPEC.model_dump(exclude_unset=True), "max_steps": STEPS, "grad_accum": 2, **WAYS[way]}
    rows = save_jsonl(tmp_path / "rows.jsonl", rows_for(options.get("objective")))
    training = Killable(tmp_path, tiny.save_llama(tmp_path / "base"), rows, build(TrainingSpec, **options))
    assert training.run("whole", lambda progress: None) == 0
    assert len(training.killed_and_gone_on("killed", "train", steps)) in (steps - 1, steps)
    assert training.made("killed") == training.made("whole")
