"""Preference training: TRL's DPOTrainer is the reference for the loss, and the bare base, bit by bit, for the reference."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import save_model
from support.evaluated import score
from support.objectives import step_loss
from support.trained import Trained
from support.trainings import PREFERENCES, run_training, save_jsonl

from sdk.schemas.preview import PreviewRequest
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.preferences import collate, dpo
from workers.pipelines.data.preview import preview
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.training import train as training

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

QUICK: dict[str, Any] = {"method": "lora", "rank": 4, "lr": 0.01, "batch_size": 2, "grad_accum": 2, "max_steps": 2}


def run(base: Path, rows: Path, out: Path, **options: Any) -> Trained:
    return run_training(base, rows, out, eval_data=rows, **{**QUICK, **options})


def examples_of(base: Path, rows: Path, max_length: int = 256) -> list[Example]:
    return tokenise(read_rows(rows), load_tokenizer(base), loss_on=None, max_length=max_length).examples


def test_loss_and_gradients_are_those_of_trl(llama_base: Path, preferences: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    beta, pad = 0.3, load_tokenizer(llama_base).pad_token_id
    tokenizer = AutoTokenizer.from_pretrained(llama_base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.float32),
        args=DPOConfig(str(tmp_path), beta=beta, report_to="none", use_cpu=True, bf16=False, max_length=None),
        train_dataset=Dataset.from_list(PREFERENCES),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"),
    )
    torch.manual_seed(1)
    matrices = {name: each for name, each in trainer.model.named_parameters() if each.requires_grad}
    for matrix in matrices.values():
        matrix.data = torch.randn_like(matrix) * 0.1

    def gradients(loss: Any) -> dict[str, Any]:
        loss.backward()
        found = {name: matrix.grad.clone() for name, matrix in matrices.items()}
        trainer.model.zero_grad()
        return found

    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    examples = examples_of(llama_base, preferences)
    batch = collate([{"input_ids": each.input_ids, "labels": each.labels} for each in examples], pad)
    ours = step_loss(dpo(TrainingSpec(beta=beta)), trainer.model, batch)
    assert abs(float(theirs) - math.log(2)) > 0.01
    assert abs(float(ours) - float(theirs)) < 1e-5
    expected, found = gradients(theirs), gradients(ours)
    largest = max(float(each.abs().max()) for each in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-5 * largest), name


def test_the_first_loss_is_log_2_and_the_chosen_answers_become_likelier(
    llama_base: Path, preferences: Path, tmp_path: Path
) -> None:
    report = run(llama_base, preferences, tmp_path / "out", max_steps=40, beta=0.5)
    assert abs(report.losses[0] - math.log(2)) < 1e-6
    assert abs(report.metrics["eval_loss_base"] - math.log(2)) < 1e-6
    assert report.metrics["eval_loss"] < 0.35
    assert report.metrics["eval_preference_accuracy"] == 1.0
    assert report.metrics["eval_preference_margin"] > 1.0
    assert report.metrics["eval_chosen_loss"] < report.metrics["eval_chosen_loss_base"]
    assert report.training["objective"] == "dpo"
    assert report.training["beta"] == 0.5
    assert report.training["samples"] == report.rows == len(PREFERENCES)
    # Somebody who was not there finds the same, from the saved files.
    found, bare = (score(llama_base, preferences, adapter).metrics for adapter in (tmp_path / "out", None))
    assert found["loss"] == pytest.approx(report.metrics["eval_chosen_loss"], rel=1e-4)
    assert bare["loss"] == pytest.approx(report.metrics["eval_chosen_loss_base"], rel=1e-4)
    assert found["loss"] < bare["loss"]
    for name in ("preference_accuracy", "preference_margin", "rejected_loss"):
        assert found[name] == pytest.approx(report.metrics[f"eval_{name}"], rel=1e-4)
    assert "preference_margin" not in bare


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "alpha": 4},
    "dora": {"use_dora": True},
    "eva": {"init_lora_weights": "eva"},
    "lora+": {"loraplus_lr_ratio": 8},
    "biases": {"bias": "all"},
    "modules": {"modules_to_save": "lm_head"},
    "tokens": {"trainable_token_indices": "71,225"},
}


#: Llama has no biases, and GPT-2 lies transposed, which scales and rates are the same for.
OVER = {"llama": [name for name in VARIANTS if name != "biases"], "gpt2": ("lora", "dora", "biases", "tokens")}


@pytest.mark.parametrize("kind", OVER)
def test_after_training_the_reference_is_still_the_bare_base(
    kind: str, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.pipelines.model.device import choose_device
    from workers.pipelines.model.loading import load_base
    from workers.pipelines.training.adapting import drop_nothing, reference_of, without_adapter

    base = save_model(tmp_path / "base", kind)
    found: dict[str, Any] = {}
    write_files = training._write

    def look(given: Any, tensors: Any, out: Path) -> None:
        model = load_base(base, choose_device(), quantization=None).model
        drop_nothing(model)
        found["bare"] = reference_of(given, model)
        found["trained"] = reference_of(given, found["model"])
        with without_adapter(found["model"]):
            found["reference"] = reference_of(given, found["model"])
        write_files(given, tensors, out)

    def keep(given: Any, loaded: Any) -> Any:
        found["model"] = adapt(given, loaded)
        return found["model"]

    adapt = training.adapted
    monkeypatch.setattr(training, "adapted", keep)
    monkeypatch.setattr(training, "_write", look)
    for name in OVER[kind]:
        run(base, preferences, tmp_path / name, lr=0.05, **VARIANTS[name])
        assert torch.equal(found["reference"], found["bare"]), name
        assert not torch.equal(found["trained"], found["bare"]), name


def test_dropout_and_noise_of_a_base_are_off_while_it_is_compared(preferences: Path, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "gpt2")
    config = json.loads((base / "config.json").read_text())
    config |= {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}
    (base / "config.json").write_text(json.dumps(config))
    report = run(base, preferences, tmp_path / "out", dropout=0.0)
    assert abs(report.losses[0] - math.log(2)) < 1e-6
    assert report.training["base_dropout"] == 0.0


def test_a_reference_that_is_not_the_base_is_refused(
    llama_base: Path, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt = training.adapted

    def changed(given: Any, loaded: Any) -> Any:
        with torch.no_grad():
            next(loaded.model.parameters()).mul_(1.001)
        return adapt(given, loaded)

    monkeypatch.setattr(training, "adapted", changed)
    with pytest.raises(PipelineError, match=r"not a reference for dpo"):
        run(llama_base, preferences, tmp_path / "out")


def test_micro_batches_keep_pairs_together(llama_base: Path, preferences: Path) -> None:
    from workers.pipelines.data.batches import example_batches, micro_batches

    examples, objective = examples_of(llama_base, preferences), dpo(TrainingSpec())
    (batch,) = example_batches(examples, objective, 0, len(PREFERENCES), "cpu")
    wanted = {(tuple(a.input_ids), tuple(b.input_ids)) for a, b in zip(examples[::2], examples[1::2], strict=True)}
    seen = set()
    for part in micro_batches(batch, 2, sequences=objective.sequences):
        lengths = part["attention_mask"].sum(1).tolist()
        ids = [tuple(row[:length].tolist()) for row, length in zip(part["input_ids"], lengths, strict=True)]
        seen |= set(zip(ids[::2], ids[1::2], strict=True))
    assert seen == wanted


def test_answers_that_differ_only_in_what_is_cut_off_are_left_out(llama_base: Path, tmp_path: Path) -> None:
    same = {"prompt": "p", "chosen": "long " * 20 + "a", "rejected": "long " * 20 + "b"}
    path = save_jsonl(tmp_path / "rows.jsonl", [same, {"prompt": "p", "chosen": "a", "rejected": "b"}])
    found = tokenise(read_rows(path), load_tokenizer(llama_base), loss_on=None, max_length=16)
    assert (found.rows, found.dropped, len(found.examples)) == (1, 1, 2)


def test_conversations_are_rendered_by_the_template_of_the_base(llama_base: Path, tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "a colour"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("red", "RED!")]
    path = save_jsonl(tmp_path / "chats.jsonl", [{"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}])
    chosen, rejected = examples_of(llama_base, path)
    tokenizer = load_tokenizer(llama_base)
    for example, answer in zip((chosen, rejected), answers, strict=True):
        rendered = tokenizer.apply_chat_template([*prompt, *answer], tokenize=False)
        assert (
            tokenizer.decode(example.input_ids) == rendered.rstrip("\n")
            or tokenizer.decode(example.input_ids) == rendered
        )
        learnt = [token for token in example.labels if token != IGNORED]
        assert answer[0]["content"] in tokenizer.decode(learnt)
        assert "colour" not in tokenizer.decode(learnt)
    assert chosen.prompt_ids == rejected.prompt_ids
    run(llama_base, path, tmp_path / "out")


def test_a_preview_shows_both_answers(llama_base: Path, preferences: Path) -> None:
    request = PreviewRequest(
        base=str(llama_base),
        data=str(preferences),
        loss_on=None,
        columns=None,
        max_length=64,
        day="2026-01-01",
        rows=1,
        row=None,
    )
    found = preview(request)
    assert found.shape == "preference"
    assert [
        (text.row, text.supervised_text.startswith(answer))
        for text, answer in zip(found.rows, ("red", "RED!"), strict=True)
    ] == [
        (1, True),
        (1, True),
    ]
