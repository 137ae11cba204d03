"""Preferences that are learnt after another training: the version that is continued is what they are learnt against."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support.evaluated import score
from support.objectives import step_loss
from support.trained import Trained
from support.trainings import PREFERENCES, run_training, save_jsonl, whole_and_resumed
from transformers import AutoModelForCausalLM

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.preferences import collate, dpo, log_likelihoods
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.model.trained_whole import as_reference, compare_with_this

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

QUICK: dict[str, Any] = {
    "method": "lora", "rank": 4, "lr": 0.02, "batch_size": 2, "grad_accum": 2, "max_steps": 3, "dropout": 0.0,
}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {}),
    "dora": ("llama", {"use_dora": True}),
    "whole": ("llama", {"modules_to_save": "lm_head"}),
    "tokens": ("llama", {"trainable_token_indices": "71,225"}),
    "biases": ("gpt2", {"bias": "all"}),
}


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chosen answers of the first half."""
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PREFERENCES[:6]]
    return save_jsonl(tmp_path_factory.mktemp("chosen") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def parents(bases: dict[str, Path], chosen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A version of each variant that was trained on answers."""
    folder = tmp_path_factory.mktemp("parents")
    for name, (kind, options) in VARIANTS.items():
        run(bases[kind], chosen, folder / name, **options)
    return {name: folder / name for name in VARIANTS}


def run(base: Path, rows: Path, out: Path, parent: Path | None = None, **options: Any) -> Trained:
    return run_training(base, rows, out, eval_data=rows, parent=parent, **{**QUICK, **options})


def batch_of(base: Path, rows: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(base)
    examples = tokenise(read_rows(rows), tokenizer, loss_on=None, max_length=256).examples
    return collate([{"input_ids": each.input_ids, "labels": each.labels} for each in examples], tokenizer.pad_token_id)


def by_plain_peft(base: Path, adapter: Path, batch: dict[str, Any]) -> Any:
    """Return log π of each answer by an adapter that PEFT has loaded over its base."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        return log_likelihoods(model, batch)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_begins_at_log_2_and_its_reference_stays_the_parent(
    bases: dict[str, Path],
    parents: dict[str, Path],
    preferences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    from workers.pipelines.training import train as training

    kind, options = VARIANTS[name]
    base, parent = bases[kind], parents[name]
    batch, found = batch_of(base, preferences), {}
    write_files, adapt = training._write, training.adapted

    def keep(given: Any, loaded: Any) -> Any:
        found["model"] = adapt(given, loaded)
        found["numbers"] = sum(each.numel() for each in loaded.model.parameters())
        return found["model"]

    def look(given: Any, tensors: Any, out: Path) -> None:
        model = found["model"].eval()
        with torch.no_grad():
            found["trained"] = log_likelihoods(model, batch)
            with as_reference(model):
                found["reference"] = log_likelihoods(model, batch)
            again = log_likelihoods(model, batch)
        assert torch.equal(again, found["trained"])
        write_files(given, tensors, out)

    monkeypatch.setattr(training, "adapted", keep)
    monkeypatch.setattr(training, "_write", look)
    report = run(base, preferences, tmp_path / "out", parent, lr=0.05, **options)
    assert abs(report.losses[0] - math.log(2)) < 1e-6
    assert report.training["reference"] == "parent"
    assert torch.equal(found["reference"], by_plain_peft(base, parent, batch))
    assert not torch.equal(found["reference"], found["trained"])
    assert torch.equal(found["trained"], by_plain_peft(base, tmp_path / "out", batch))
    # No second base is in memory.
    assert sum(each.numel() for each in found["model"].parameters()) == found["numbers"]


def test_loss_and_gradients_are_those_of_trl_against_its_own_copy_of_the_adapter(
    bases: dict[str, Path], parents: dict[str, Path], preferences: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    base, beta = bases["llama"], 0.3
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def continued() -> Any:
        bare = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(bare, parents["lora"], is_trainable=True)

    trainer = DPOTrainer(
        model=continued(),
        args=DPOConfig(str(tmp_path), beta=beta, report_to="none", use_cpu=True, bf16=False, max_length=None),
        train_dataset=Dataset.from_list(PREFERENCES),
        processing_class=tokenizer,
    )
    assert "ref" in trainer.model.peft_config
    ours = continued()
    compare_with_this(ours)
    generator = torch.Generator().manual_seed(1)
    matrices = {name: each for name, each in ours.named_parameters() if each.requires_grad}
    for name, matrix in matrices.items():
        with torch.no_grad():
            matrix += 0.1 * torch.randn(matrix.shape, generator=generator)
            trainer.model.get_parameter(name).copy_(matrix)
    trainer.model.train()
    ours.train()
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    batch = batch_of(base, preferences)
    found = step_loss(dpo(TrainingSpec(beta=beta)), ours, batch)
    assert abs(float(theirs) - math.log(2)) > 0.01
    assert abs(float(found) - float(theirs)) < 1e-5
    theirs.backward()
    found.backward()
    expected = {name: trainer.model.get_parameter(name).grad for name in matrices}
    largest = max(float(each.abs().max()) for each in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        assert torch.allclose(matrices[name].grad, gradient, rtol=1e-5, atol=1e-5 * largest), name


def test_what_is_said_of_held_out_rows_is_the_parents_and_the_bases_own(
    bases: dict[str, Path], parents: dict[str, Path], preferences: Path, tmp_path: Path
) -> None:
    base, parent = bases["llama"], parents["lora"]
    metrics = run(base, preferences, tmp_path / "out", parent, max_steps=30, beta=0.5).metrics
    scored = score(base, preferences, parent).metrics
    assert metrics["eval_chosen_loss_parent"] == pytest.approx(scored["loss"], rel=1e-4)
    assert metrics["eval_rejected_loss_parent"] == pytest.approx(scored["rejected_loss"], rel=1e-4)
    assert "eval_chosen_loss_base" not in metrics
    assert metrics["eval_loss"] < 0.5 < math.log(2)
    assert metrics["eval_preference_accuracy"] == 1.0
    batch = batch_of(base, preferences)
    with torch.no_grad():
        bare = log_likelihoods(AutoModelForCausalLM.from_pretrained(base), batch)
    ratios = bare - by_plain_peft(base, parent, batch)
    against = -torch.nn.functional.logsigmoid(0.5 * (ratios[::2] - ratios[1::2])).mean()
    assert metrics["eval_loss_base"] == pytest.approx(float(against), rel=1e-5)
    assert abs(metrics["eval_loss_base"] - math.log(2)) > 1e-3


def test_after_a_stop_it_goes_on_against_the_parent_and_ends_with_the_same_bytes(
    bases: dict[str, Path], parents: dict[str, Path], preferences: Path, tmp_path: Path
) -> None:
    base, parent = bases["llama"], parents["dora"]
    options = {"use_dora": True, "dropout": 0.2, "max_steps": 4}

    def train(out: Path, **checkpoints: Any) -> None:
        run(base, preferences, out, parent, **options, **checkpoints)

    whole, again = whole_and_resumed(train, tmp_path)
    assert whole == again
