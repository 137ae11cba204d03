from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.evaluated import plain_loss
from support.fixtures import Limits
from support.trained import Trained
from support.trainings import files_of, run_training
from transformers import AutoModelForCausalLM

import workers.pipelines.training.train as training
from sdk.lora.planning.footprint import KEPT_BY_MALLOC_BYTES
from sdk.schemas.events import Progress
from sdk.schemas.training import TrainingSpec
from sdk.version import VERSION
from workers.pipelines.data.batches import SFT, loss_sum
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.objectives import MADE
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.device import resident_bytes

# PEFT reads a property that transformers has renamed; the pipelines silence it themselves.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SPEC = TrainingSpec(rank=4, max_steps=3, lr=0.01, batch_size=2, grad_accum=2, warmup_ratio=0.5, seed=3)


def train(base: Path, data: Path, out: Path, spec: TrainingSpec = SPEC, **rest: Any) -> Trained:
    return run_training(base, data, out, **{"base_revision": "c0ffee", "spec": spec, **rest})


@pytest.fixture(scope="module")
def plain(llama_base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """A training of `SPEC`, and its folder; not to be changed."""
    out = tmp_path_factory.mktemp("plain") / "out"
    return train(llama_base, pairs, out), out


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_a_training_writes_an_adapter_that_loads_in_peft_and_changes_the_model(
    llama_base: Path, pairs: Path, tmp_path: Path, method: Any
) -> None:
    seen: list[Progress] = []
    spec = SPEC.model_copy(update={"method": method})
    before = resident_bytes()
    report = train(llama_base, pairs, tmp_path / "out", spec, eval_data=pairs, on_progress=seen.append)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "rendering.json",
    ]
    base = AutoModelForCausalLM.from_pretrained(llama_base)
    ids = torch.tensor([[10, 20, 30]])
    with torch.no_grad():
        bare = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "out")(ids).logits
    assert not torch.equal(bare, adapted)

    assert report.lora.target_modules == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert report.lora.alpha == 8
    assert (report.quantization is None) == (method == "lora")
    assert report.rows == 12
    assert report.metrics["eval_loss"] < report.metrics["eval_loss_base"]
    # r·(N + D) of each matrix: q and o are 64×64, k and v 32×64, in two layers.
    assert report.metrics["trainable_parameters"] == 2 * 4 * (2 * (64 + 64) + 2 * (32 + 64))
    assert report.metrics["steps"] == 3
    # It is of the whole process, of which such a base is next to nothing, and of what malloc keeps.
    assert before is not None
    assert 0.9 * before < report.metrics["forecast_bytes"] < 1.1 * before + KEPT_BY_MALLOC_BYTES
    # The first one is the look before the first step.
    assert [point.step for point in report.points] == [0, 1, 2, 3]
    assert ["loss" in point.values for point in report.points] == [False, True, True, True]
    assert report.record.flat() == report.training
    assert (report.record.effective_batch, report.record.warmup_steps) == (4, 2)
    assert (report.record.adapterctl, report.record.python) == (VERSION, platform.python_version())
    # Nothing is recorded that has no field, but what an audit found, by kind.
    assert all(name.startswith("audit_") for name in report.record.model_extra)
    assert [progress.step for progress in seen if progress.phase == "train"] == [1, 2, 3]
    assert {"data", "load", "train", "evaluate", "save"} == {progress.phase for progress in seen}
    assert seen[-2].phase == "evaluate"


def test_a_training_measures_where_its_loss_began_and_how_large_its_update_is(
    llama_base: Path, pairs: Path, tmp_path: Path
) -> None:
    wild = SPEC.model_copy(update={"lr": 1.0, "alpha": 64.0, "method": "lora", "warmup_ratio": 0.0, "max_steps": 7})
    report = train(llama_base, pairs, tmp_path / "out", wild, eval_data=pairs)
    # An epoch is twelve rows in steps of four.
    losses = report.losses
    assert report.metrics["first_loss"] == pytest.approx(sum(losses[:3]) / 3)
    assert report.metrics["last_loss"] == pytest.approx(sum(losses[4:]) / 3)
    base, trained = (load_file(folder) for folder in weights_of(llama_base, tmp_path / "out"))
    shares = []
    for name in trained:
        if "lora_A" in name:
            module = name.removeprefix("base_model.model.").partition(".lora_A")[0]
            a, b = trained[name].double(), trained[name.replace("lora_A", "lora_B")].double()
            shares.append(float((b @ a * 64 / 4).norm() / base[f"{module}.weight"].double().norm()))
    assert report.metrics["largest_update"] == pytest.approx(max(shares), rel=1e-4)
    # Where so wild a training ends is not the same on every processor.
    *rest, update = report.warnings
    before, after = report.metrics["eval_loss_base"], report.metrics["eval_loss"]
    risen = f"the loss of the held-out rows rose from {before:.4g} to {after:.4g}"
    assert any(warning.startswith(risen) for warning in rest) == (after > before)
    above = report.metrics["last_loss"] > 1.02 * report.metrics["first_loss"]
    assert any(warning.startswith("the training's loss ended above its beginning") for warning in rest) == above
    assert update.startswith(f"the update of a module is {max(shares):.3g} times as large")


def weights_of(*folders: Path) -> list[Path]:
    return [next(folder.glob("*model.safetensors")) for folder in folders]


def test_one_over_four_bits_is_measured_beside_what_those_are(
    llama_base: Path, pairs: Path, tmp_path: Path, plain: tuple[Trained, Path]
) -> None:
    report = train(llama_base, pairs, tmp_path / "out", SPEC.model_copy(update={"method": "lora"}))
    assert plain[0].quantization is not None
    # NF4 changes the norm of a weight by less than a tenth of a share.
    assert plain[0].metrics["largest_update"] == pytest.approx(report.metrics["largest_update"], rel=0.1)
    # One epoch of three steps has no other steps over the same rows.
    assert "first_loss" not in plain[0].metrics
    assert plain[0].warnings == report.warnings == []


def test_the_config_names_the_base_and_no_machine(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    train(llama_base, pairs, tmp_path / "out", SPEC.model_copy(update={"targets": "v_proj,q_proj", "alpha": 12.0}))
    text = (tmp_path / "out" / "adapter_config.json").read_text()
    config = json.loads(text)
    assert list(config) == sorted(config)
    assert config["base_model_name_or_path"] == "org/tiny"
    assert config["revision"] == "c0ffee"
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["lora_alpha"] == 12
    assert "peft_version" not in config
    assert str(llama_base) not in text


def require_trained(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    # A rounded to bfloat16 somewhere on the way would still be stored in float32.
    assert all(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in tensors.values())
    assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


def test_the_stored_matrices_are_float32_and_no_b_is_zero(plain: tuple[Trained, Path]) -> None:
    require_trained(plain[1])


def test_matrices_over_packed_weights_are_float32_too_and_gradients_reach_them(
    llama_base: Path, pairs: Path, tmp_path: Path, wide_share: Callable[[float], None]
) -> None:
    """TRL rounds the fresh matrices to bfloat16 there."""
    wide_share(0.0)
    report = train(llama_base, pairs, tmp_path / "out", eval_data=pairs)
    assert report.training["base_weights"] == "packed"
    assert report.metrics["eval_loss"] < report.metrics["eval_loss_base"]
    require_trained(tmp_path / "out")


def test_the_bytes_are_those_of_the_seed(
    llama_base: Path, pairs: Path, plain: tuple[Trained, Path], tmp_path: Path
) -> None:
    """Whatever state the process is in; that other processes give the same is shown by `adapterctl train`."""
    made = [files_of(plain[1])]
    for seed in (3, 4):
        torch.manual_seed(seed + 100)
        report = train(llama_base, pairs, tmp_path / f"{seed}", SPEC.model_copy(update={"seed": seed}))
        assert report.training["seed"] == seed
        made.append(files_of(tmp_path / f"{seed}"))
    assert made[0] == made[1]
    assert made[0]["adapter_model.safetensors"] != made[2]["adapter_model.safetensors"]


def test_the_loss_of_a_step_is_that_of_a_plain_loop(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    """One step over all rows without dropout: its loss is the base's own, row by row, without padding."""
    spec = TrainingSpec(method="lora", rank=4, dropout=0.0, max_steps=1, batch_size=5, grad_accum=3)
    report = train(llama_base, pairs, tmp_path / "out", spec)
    model = AutoModelForCausalLM.from_pretrained(llama_base)
    examples = tokenise(read_rows(pairs), load_tokenizer(llama_base), loss_on=None, max_length=1024).examples
    tokens = sum(label != IGNORED for example in examples for label in example.labels)
    total = sum(plain_loss(model, example) for example in examples)
    assert report.supervised_tokens == tokens
    assert report.metrics["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert report.metrics["tokens"] == sum(len(example.input_ids) for example in examples)


@pytest.mark.slow
def test_the_split_into_forward_passes_does_not_change_what_is_learnt(
    llama_base: Path, pairs: Path, tmp_path: Path
) -> None:
    tensors = []
    for rows in (1, 4, 12):
        spec = TrainingSpec(
            method="lora", rank=4, dropout=0.0, max_steps=2, lr=0.01, batch_size=rows, grad_accum=12 // rows
        )
        train(llama_base, pairs, tmp_path / str(rows), spec)
        tensors.append(load_file(tmp_path / str(rows) / "adapter_model.safetensors"))
    for name, tensor in tensors[0].items():
        for other in tensors[1:]:
            torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)


def test_an_evaluation_before_the_training_does_not_stop_it(
    llama_base: Path, pairs: Path, plain: tuple[Trained, Path], tmp_path: Path
) -> None:
    """On CPUs with AVX512-BF16, a forward pass in evaluation mode repacks 4-bit weights and ends all gradients."""
    train(llama_base, pairs, tmp_path / "with", eval_data=pairs)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "with", plain[1]))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_gradient_checkpointing_is_chosen_by_memory_and_learns_the_same(
    llama_base: Path, pairs: Path, plain: tuple[Trained, Path], tmp_path: Path, limits: Limits
) -> None:
    limits("sdk.lora.planning.forecast", ACTIVATION_SHARE=0.0)
    sparing = train(llama_base, pairs, tmp_path / "sparing")
    said = [report.training["gradient_checkpointing"] for report in (plain[0], sparing)]
    assert said == [False, True]
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (plain[1], tmp_path / "sparing"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_gpt2_is_trained_as_transposed(gpt2_base: Path, pairs: Path, tmp_path: Path) -> None:
    for method in ("lora", "qlora"):
        spec = SPEC.model_copy(update={"method": method})
        report = train(gpt2_base, pairs, tmp_path / method, spec)
        assert report.lora.target_modules == ["attn.c_proj", "c_attn"]
        assert report.lora.fan_in_fan_out
        # GPT-2 drops what goes into its blocks and comes out of them.
        assert report.training["base_dropout"] == 0.1
        assert json.loads((tmp_path / method / "adapter_config.json").read_text())["fan_in_fan_out"] is True
        model = AutoModelForCausalLM.from_pretrained(gpt2_base)
        # Warnings are errors: PEFT would warn of a wrong fan_in_fan_out.
        PeftModel.from_pretrained(model, tmp_path / method)


def test_texts_are_split_where_the_positions_of_the_base_end(
    gpt2_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_jsonl([{"text": "z" * 1000}, {"text": "a b"}])
    report = train(gpt2_base, path, tmp_path / "out", SPEC.model_copy(update={"max_steps": 1, "max_length": 1024}))
    said = [report.training[name] for name in ("max_length", "rows_cut", "rows_split", "samples")]
    # 1,001 tokens, of which each piece learns 255.
    assert said == [256, 0, 1, 4 + 1]


def test_rows_that_are_all_masked_are_refused_before_the_base_is_loaded(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_base", lambda *args, **rest: pytest.fail("the base was loaded"))
    path = write_jsonl([{"prompt": "a" * 60, "completion": "b"}])
    with pytest.raises(PipelineError) as caught:
        train(llama_base, path, tmp_path / "out", SPEC.model_copy(update={"max_length": 16}))
    assert caught.value.reason == "data"
    with pytest.raises(PipelineError) as caught:
        train(llama_base, write_jsonl([{"text": "a"}]), tmp_path / "out", SPEC.model_copy(update={"targets": "nope"}))
    assert caught.value.reason == "targets"
    assert not (tmp_path / "out").exists()


def minimise(monkeypatch: pytest.MonkeyPatch, loss: Callable[[Any, Any, Any], Any]) -> None:
    """Let trainings minimise something else."""
    changed = replace(SFT, loss=lambda model, batch, tokens, losses: loss(model, batch, losses) / tokens)
    monkeypatch.setitem(MADE, "sft", lambda spec: changed)


def test_a_loss_that_is_no_number_ends_the_job_with_advice(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimise(monkeypatch, lambda model, batch, losses: loss_sum(model, batch, losses) * math.nan)
    with pytest.raises(PipelineError, match="loss is nan at step 1") as caught:
        train(llama_base, pairs, tmp_path / "out")
    assert caught.value.reason == "diverged"
    advice = ["lower learning rate (0.01 → 0.001)", "longer warm-up", "smaller batch", "a look at the data"]
    places = [caught.value.message.index(part) for part in advice]
    assert places == sorted(places)
    assert not (tmp_path / "out").exists()


def test_gradients_that_reach_no_matrix_end_the_job(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(model: Any, batch: Any, losses: Any) -> Any:
        """The gradient of the second layer only, as when a layer's backward pass stops."""
        layer = model.get_base_model().model.layers[1]
        hook = layer.register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
        try:
            return loss_sum(model, batch, losses)
        finally:
            hook.remove()

    minimise(monkeypatch, cut)
    with pytest.raises(PipelineError, match=r"No gradient reaches 4 of 16 adapter matrices .*layers\.0\.") as caught:
        train(llama_base, pairs, tmp_path / "out")
    assert caught.value.reason == "untrained"


def test_an_adapter_whose_b_stays_zero_is_refused(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(PipelineError, match=r"8 matrices B .* all zero .* changes nothing") as caught:
        train(llama_base, pairs, tmp_path / "out")
    assert caught.value.reason == "untrained"


def test_an_adapter_that_is_not_the_base_at_the_start_is_refused(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_adapt = training.adapted

    def shifted(*args: Any) -> Any:
        model = true_adapt(*args)
        next(p for name, p in model.named_parameters() if "lora_B" in name).data.fill_(1.0)
        return model

    monkeypatch.setattr(training, "adapted", shifted)
    with pytest.raises(PipelineError, match="changes the base's logits by up to"):
        train(llama_base, pairs, tmp_path / "out")


def test_modules_that_peft_refuses_are_targets_to_choose_anew(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workers.pipelines.training.lora_configs as module

    # PEFT is asked for what the model has no module of.
    monkeypatch.setattr(module, "resolve_targets", lambda *args, **rest: ["out_proj"])
    with pytest.raises(PipelineError, match=r"PEFT can't adapt these targets of a llama model \(.*out_proj") as caught:
        train(llama_base, pairs, tmp_path / "out")
    assert caught.value.reason == "targets"


def test_a_callback_that_raises_ends_the_training(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    class CancelledError(Exception):
        pass

    def cancel(progress: Progress) -> None:
        if progress.phase == "train":
            raise CancelledError

    with pytest.raises(CancelledError):
        train(llama_base, pairs, tmp_path / "out", on_progress=cancel)
    assert not (tmp_path / "out").exists()
