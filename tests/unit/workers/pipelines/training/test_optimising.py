"""The optimiser's options, seen in what a step does to the matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.architectures import save_model
from support.families import save_rows
from support.trained import Trained
from support.trainings import run_training, whole_and_resumed

from sdk.schemas.training import TrainingSpec
from workers.pipelines.training.optimising import Schedule, optimizer_of, parameter_groups

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

STEADY: dict[str, Any] = {
    "method": "lora", "rank": 4, "lr": 0.01, "batch_size": 6, "grad_accum": 1, "dropout": 0.0, "warmup_ratio": 0.0,
    "schedule": "constant", "max_steps": 1,
}  # fmt: skip


class Place:
    """A tiny base, rows, and trainings over them."""

    def __init__(self, folder: Path) -> None:
        self.base = save_model(folder / "base", "llama")
        self.rows = save_rows(folder / "rows.jsonl")
        self.folder = folder
        self.reports: dict[str, Trained] = {}

    def train(self, **options: Any) -> dict[str, Any]:
        """Return the adapter's tensors; the same options are trained once."""
        name = repr(sorted(options.items()))
        out = self.folder / str(abs(hash(name)))
        if name not in self.reports:
            self.reports[name] = run_training(self.base, self.rows, out, **{**STEADY, **options})
        return load_file(out / "adapter_model.safetensors")

    def loss(self, **options: Any) -> float:
        self.train(**options)
        return self.reports[repr(sorted(options.items()))].metrics["loss"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("optimising"))


def largest(tensors: dict[str, Any], part: str) -> float:
    return max(float(tensor.abs().max()) for name, tensor in tensors.items() if part in name)


def test_each_b_learns_at_the_ratio_times_the_rate_from_the_first_update_on(place: Place) -> None:
    """AdamW's first step moves each number by the rate, whatever its gradient: B from zero, A not while B is."""
    plain, faster = place.train(), place.train(loraplus_lr_ratio=16.0)
    assert largest(plain, "lora_B") == pytest.approx(0.01, rel=1e-3)
    assert largest(faster, "lora_B") == pytest.approx(0.16, rel=1e-3)
    assert all(torch.equal(tensor, faster[name]) for name, tensor in plain.items() if "lora_A" in name)
    # From the second step on A moves too, at the rate itself.
    second = place.train(loraplus_lr_ratio=16.0, max_steps=2)
    moved = max(float((second[name] - faster[name]).abs().max()) for name in second if "lora_A" in name)
    # After a first gradient of zero: m̂ = 0.1·g/(1 - 0.9²), v̂ = 0.001·g²/(1 - 0.999²).
    assert moved == pytest.approx(0.01 * (0.1 / (1 - 0.9**2)) / (0.001 / (1 - 0.999**2)) ** 0.5, rel=1e-3)


def test_matrices_decay_and_nothing_else_does(place: Place) -> None:
    fresh, decayed = (
        place.train(modules_to_save="model.norm"),
        place.train(modules_to_save="model.norm", weight_decay=0.5),
    )
    for name, tensor in fresh.items():
        if "lora_A" in name:
            torch.testing.assert_close(decayed[name], tensor * (1 - 0.01 * 0.5), rtol=1e-6, atol=0)
        else:
            # B is zero, and a norm has one dimension.
            assert torch.equal(decayed[name], tensor)


def test_the_groups_are_those_of_peft() -> None:
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_bias=True,
    )
    lora = LoraConfig(target_modules=["q_proj", "down_proj"], use_dora=True, bias="all", modules_to_save=["lm_head"])
    model = get_peft_model(LlamaForCausalLM(config), lora)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=8.0)
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    ours = parameter_groups(trainable, TrainingSpec(lr=0.01, loraplus_lr_ratio=8.0, weight_decay=0.1))
    rates = [
        {id(each): group["lr"] for group in groups for each in group["params"]}
        for groups in (theirs.param_groups, ours)
    ]
    assert rates[0] == rates[1]
    assert len(rates[1]) == len(trainable)
    decay = {id(each): group["weight_decay"] for group in ours for each in group["params"]}
    assert {each.ndim > 1 for each in trainable.values() if decay[id(each)]} == {True}
    assert {each.ndim > 1 for each in trainable.values() if not decay[id(each)]} == {False}
    # Each A is in the first group, whose rate a checkpoint keeps.
    first = {id(each) for each in ours[0]["params"]}
    assert all(id(each) in first for name, each in trainable.items() if "lora_A" in name)


def test_without_options_there_is_one_group_as_before() -> None:
    trainable = {"lora_A": torch.nn.Parameter(torch.ones(2, 2)), "bias": torch.nn.Parameter(torch.ones(2))}
    optimizer = optimizer_of(trainable, TrainingSpec())
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-4, 0.0, (0.9, 0.999))


def test_gradients_are_cut_betas_are_taken_and_noise_is_added_in_training_alone(place: Place) -> None:
    two = {"max_steps": 3}
    plain = place.train(**two)
    for options in ({"max_grad_norm": 1e-9}, {"max_grad_norm": 0.0}, {"adam_beta1": 0.5}, {"adam_beta2": 0.9}):
        changed = place.train(**two, **options)
        assert any(not torch.equal(tensor, changed[name]) for name, tensor in plain.items()), options
    # Far below AdamW's ε, gradients hardly move anything.
    assert largest(place.train(**two, max_grad_norm=1e-9), "lora_B") < 0.1 * largest(plain, "lora_B")
    assert place.loss(neftune_noise_alpha=5.0) != place.loss()
    assert place.loss(neftune_noise_alpha=1e-6) == pytest.approx(place.loss(), rel=1e-5)


def test_the_record_has_what_was_chosen(place: Place) -> None:
    options = {"modules_to_save": "model.norm", "weight_decay": 0.5}
    place.train(**options)
    training = place.reports[repr(sorted(options.items()))].training
    assert training["weight_decay"] == 0.5
    assert training["adam_beta2"] == 0.999
    assert training["modules_to_save"] == "model.norm"


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_other_optimisers_need_a_card_and_go_on_from_their_checkpoints(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optim: str
) -> None:
    """bitsandbytes has them on CPUs too, without pages, which is enough to see that their moments come back."""
    import workers.pipelines.training.inputs as module
    from workers.pipelines.errors import PipelineError

    # Matrices of 4,096 numbers and more have moments in 8 bits.
    given = {"max_steps": 3, "rank": 128, "loraplus_lr_ratio": 2.0, "weight_decay": 0.1}

    def run(out: Path, **checkpoints: Any) -> None:
        run_training(place.base, place.rows, out, **{**STEADY, **given, "optim": optim}, **checkpoints)

    with pytest.raises(PipelineError, match=f"optim {optim} needs a CUDA GPU, and this worker has none"):
        run(tmp_path / "none")
    monkeypatch.setattr(module, "require_optimizer", lambda *given: None)
    files, again = whole_and_resumed(run, tmp_path)
    assert files == again
    whole = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    moments = load_file(tmp_path / "kept" / "step-00000002" / "optimizer.safetensors")
    types = {tensor.dtype for name, tensor in moments.items() if "state1" in name}
    assert (torch.uint8 in types) == optim.endswith("8bit")
    # It learns as AdamW does, up to the rounding of the moments.
    assert largest(whole, "lora_B") == pytest.approx(largest(place.train(**given), "lora_B"), rel=0.1)


def test_a_cosine_ends_at_its_floor_and_is_the_same_without_one() -> None:
    floored, plain = Schedule("cosine", 2, 10, 0.25), Schedule("cosine", 2, 10)
    assert [floored.share(step) for step in range(3)] == [plain.share(step) for step in range(3)] == [1 / 3, 2 / 3, 1.0]
    assert floored.share(6) == pytest.approx(0.625)
    assert (floored.share(10), plain.share(10)) == (0.25, 0.0)
    assert all(floored.share(step) == pytest.approx(0.25 + 0.75 * plain.share(step)) for step in range(2, 11))


def test_a_training_with_a_floor_is_recorded_and_resumed_to_the_same_bytes(place: Place, tmp_path: Path) -> None:
    given = {"schedule": "cosine", "max_steps": 3, "lr_floor": 0.5}

    def run(out: Path, **checkpoints: Any) -> Trained:
        return run_training(place.base, place.rows, out, **{**STEADY, **given}, **checkpoints)

    files, again = whole_and_resumed(run, tmp_path)
    assert files == again
    report = run(tmp_path / "once")
    assert report.training["lr_floor"] == 0.5
    assert report.rates == pytest.approx([0.01, 0.00875, 0.00625])
    place.train(max_steps=3)
    assert "lr_floor" not in place.reports[repr([("max_steps", 3)])].training
