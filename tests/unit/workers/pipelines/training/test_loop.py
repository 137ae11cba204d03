"""The loop of a training: the losses of its steps are those of TRL's trainer, whatever the options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import tiny
from support.architectures import save_model
from support.trained import Trained
from support.trainings import LABELLED, PREFERENCES, files_of, run_training, save_jsonl
from support.trl_peer import TrlPeer
from support.variants import token_of
from transformers import TrainerCallback

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.model.device import choose_device
from workers.pipelines.training import inputs
from workers.pipelines.training import train as training

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

SPEC: dict[str, Any] = {
    "method": "lora",
    "rank": 4,
    "lr": 0.01,
    "warmup_ratio": 0.2,
    "batch_size": 2,
    "grad_accum": 2,
    "max_steps": 20,
    "packing": "off",
}
#: What is compared: each option is in one of them, with another value than it has elsewhere.
COMPARED: list[dict[str, Any]] = [
    {"objective": "sft", "rank": 8, "alpha": 2.0, "dropout": 0.3, "lr": 0.001, "lr_floor": 0.25, "seed": 7},
    {"objective": "classify", "schedule": "linear", "max_grad_norm": 0.0, "batch_size": 3},
    {"objective": "dpo", "beta": 0.5, "warmup_ratio": 0.0, "targets": "all-linear", "grad_accum": 1},
    {"objective": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.5},
    {"objective": "simpo", "simpo_gamma": 0.7},
    {"method": "qlora", "quant_type": "fp4", "double_quant": False, "loraplus_lr_ratio": 8.0, "weight_decay": 0.5},
    {"method": "qlora", "quant_type": "int8", "adam_beta1": 0.5, "adam_beta2": 0.9},
    {"use_dora": True, "use_rslora": True, "alpha": 4.0, "exclude": "q_proj", "schedule": "constant", "max_steps": 21},
    {"init_lora_weights": "eva", "eva_rho": 2.0, "layers_to_transform": "1", "max_grad_norm": 0.01},
    {"rank_pattern": "q_proj=2", "alpha_pattern": "k_proj=3", "modules_to_save": "model.norm", "dropout": 0.0},
    {
        "epochs": 5.4,
        "max_steps": None,
        "loss_on": "all",
        "max_length": 16,
        "bias": "all",
        "schedule": "cosine_restarts",
        "cycles": 3,
    },
    {"packing": "on", "trainable_token_indices": "", "optim": "adamw_8bit", "schedule": "wsd", "decay_share": 0.5},
    {"neftune_noise_alpha": 20.0, "warmup_ratio": 0.9, "grad_accum": 4},
]
#: Why an option doesn't matter to the loop.
ELSEWHERE = {
    "holdout": "the loop gets the rows that are left",
    "holdout_by": "the loop gets the rows that are left",
    "holdout_seed": "the loop gets the rows that are left",
    "add_tokens": "the rows of its tokens are there before",
    "chat_template": "rows are rendered before",
    "template_kwargs": "rows are rendered before",
    "columns": "rows are read before",
    "eval_every": "looks change nothing",
    "eval_rows": "looks change nothing",
    "keep": "what is published is chosen after the loop",
    "patience": "TRL's trainer takes all steps here",
    "min_delta": "what is published is chosen after the loop",
    "samples": "looks change nothing",
    "report_to": "points are forwarded beside it",
}


class Place:
    """Tiny bases, and rows by objective."""

    def __init__(self, folder: Path) -> None:
        self.bases = {kind: save_model(folder / kind, kind) for kind in ("llama", "llama-biased")}
        # The last step of an epoch has one row.
        pairs = tiny.write_rows(folder / "pairs.jsonl", 13)
        labelled = [{"text": f"{word} and {word}", "label": "xy"[at % 2]} for at, word in enumerate(tiny.WORDS)]
        self.rows = {
            "sft": pairs,
            "dpo": save_jsonl(folder / "preferences.jsonl", PREFERENCES),
            "simpo": folder / "preferences.jsonl",
            "kto": save_jsonl(folder / "kto.jsonl", LABELLED),
            "classify": save_jsonl(folder / "labels.jsonl", labelled),
        }
        self.token = token_of(self.bases["llama"])

    def train(self, out: Path, **options: Any) -> Trained:
        base = self.bases["llama-biased" if "bias" in options else "llama"]
        if "trainable_token_indices" in options:
            options["trainable_token_indices"] = self.token
        return run_training(base, self.rows[options.get("objective", "sft")], out, **{**SPEC, **options})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("loop"))


@pytest.fixture
def trl(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """Train with TRL's trainer in place of the loop."""
    peer = TrlPeer(tmp_path / "scratch", load_tokenizer(place.bases["llama"]))

    def train(out: Path, **options: Any) -> Trained:
        with monkeypatch.context() as patched:
            patched.setattr(training, "run", peer)
            return place.train(out, **options)

    return train


def test_every_option_is_compared_or_has_a_reason() -> None:
    for name, field in TrainingSpec.model_fields.items():
        values = [options[name] for options in COMPARED if name in options]
        print(f"{name}: {ELSEWHERE.get(name, values)}")
        assert (name in ELSEWHERE) != any(value != SPEC.get(name, field.default) for value in values), name
    assert ELSEWHERE.keys() <= TrainingSpec.model_fields.keys()


@pytest.mark.parametrize("options", COMPARED, ids="-".join)
def test_losses_rates_and_matrices_are_those_of_trl(
    place: Place,
    trl: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    # bitsandbytes has its optimisers on CPUs too.
    monkeypatch.setattr(inputs, "require_optimizer", lambda *given: None)
    monkeypatch.setattr(inputs, "choose_device", lambda: replace(choose_device(), compute_dtype="float32"))
    ours, theirs = place.train(tmp_path / "ours", **options), trl(tmp_path / "theirs", **options)
    assert ours.record.dtype == "float32"
    assert len(ours.losses) == len(theirs.losses) == ours.record.total_steps >= 20
    assert ours.rates == theirs.rates
    assert ours.metrics["tokens"] == theirs.metrics["tokens"]
    gap = max(abs(loss - other) for loss, other in zip(ours.losses, theirs.losses, strict=True))
    print(f"{options}: losses of {len(ours.losses)} steps differ by up to {gap:.1e}")
    assert gap < 1e-5
    found, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    for name, matrix in expected.items():
        torch.testing.assert_close(found[name], matrix, rtol=1e-5, atol=1e-5)


def test_callbacks_of_the_trainer_are_called_and_change_nothing(place: Place, tmp_path: Path) -> None:
    calls: list[str] = []
    logged: list[tuple[int, dict[str, float]]] = []

    class Tracker(TrainerCallback):  # type: ignore[misc]  # transformers' types are not followed
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            calls.append(f"begin of {state.max_steps}, {args.learning_rate}, {rest['model'].config.model_type}")

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            calls.append(f"step {state.global_step}")
            control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            logged.append((state.global_step, logs))

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            calls.append(f"end after {len(state.log_history)}")

    report = place.train(tmp_path / "with", max_steps=5, callbacks=[Tracker()])
    assert calls == ["begin of 5, 0.01, llama", *(f"step {step}" for step in range(1, 6)), "end after 5"]
    assert logged == [
        (step, {"loss": loss, "learning_rate": rate, "epoch": step / 4})
        for step, (loss, rate) in enumerate(zip(report.losses, report.rates, strict=True), start=1)
    ]
    place.train(tmp_path / "without", max_steps=5)
    assert files_of(tmp_path / "with") == files_of(tmp_path / "without")
