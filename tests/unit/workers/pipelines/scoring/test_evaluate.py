from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.architectures import save_model
from support.evaluated import plain_loss, rows_of, score
from support.trainings import run_training

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.events import Progress
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.validation import build
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring.recorded import AlreadyRecorded

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LEARNING = TrainingSpec(rank=4, max_steps=30, lr=0.02, batch_size=4, grad_accum=1, targets="all-linear")
SPEC = EvaluationSpec(batch_size=5, generate_rows=3, max_new_tokens=6, keep_samples=2)


def evaluate(base: Path, data: Path, spec: EvaluationSpec = SPEC, **rest: Any) -> EvaluationReport:
    return score(base, data, spec=spec, **rest)


@pytest.fixture(scope="module")
def adapter(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {n}: ", "completion": "four"}}\n' for n in range(8)))
    run_training(llama_base, rows, folder / "adapter", spec=LEARNING.model_copy(update={"max_steps": 8}))
    return folder / "adapter"


def test_the_loss_weighs_tokens_and_not_batches(llama_base: Path, pairs: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_base)
    examples = tokenise(read_rows(pairs), load_tokenizer(llama_base), loss_on=None, max_length=1024).examples
    total = sum(plain_loss(model, example) for example in examples)
    tokens = sum(label != IGNORED for example in examples for label in example.labels)
    report = evaluate(llama_base, pairs)
    assert report.precision == "float32"
    assert report.metrics["supervised_tokens"] == tokens
    assert report.metrics["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert report.metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert evaluate(llama_base, pairs, SPEC.model_copy(update={"batch_size": 1})).metrics["loss"] == pytest.approx(
        report.metrics["loss"], rel=1e-5
    )


def test_batched_generation_is_that_of_each_row_alone(llama_base: Path, pairs: Path) -> None:
    spec = SPEC.model_copy(update={"generate_rows": 12, "keep_samples": 12})
    together = evaluate(llama_base, pairs, spec)
    alone = evaluate(llama_base, pairs, spec.model_copy(update={"batch_size": 1}))
    assert [sample.completion for sample in together.samples] == [sample.completion for sample in alone.samples]
    assert len({sample.completion for sample in alone.samples}) > 1
    assert [sample.reference for sample in together.samples][:3] == ["one", "two", "three"]
    assert together.metrics["rouge_l"] == alone.metrics["rouge_l"]


@pytest.mark.parametrize("name", ["gpt2", "opt", "qwen3.5", "gpt-neox"])
def test_padding_moves_no_token_in_any_architecture(
    name: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Whether positions are learnt, turned or none, or a state is carried along."""
    base = save_model(tmp_path / name, name)
    asked = [
        "the cat",
        "one",
        "two and two and two and two",
        "a",
        "the cat sat on the mat and sat",
        "four",
        "one two three",
    ]
    data = write_jsonl([{"prompt": f"{text}: ", "completion": "four"} for text in asked])
    spec = SPEC.model_copy(update={"generate_rows": 7, "keep_samples": 7, "batch_size": 7})
    together = evaluate(base, data, spec)
    alone = evaluate(base, data, spec.model_copy(update={"batch_size": 1}))
    assert [sample.completion for sample in together.samples] == [sample.completion for sample in alone.samples]
    assert [sample.prompt for sample in together.samples] == [f"{text}: " for text in asked]
    assert len({sample.completion for sample in alone.samples}) > 1


def test_an_adapter_is_better_on_what_it_learnt_and_says_it(
    llama_base: Path, adapter: Path, write_jsonl: Callable[..., Path]
) -> None:
    data = write_jsonl([{"prompt": f"say {n}: ", "completion": "four"} for n in range(20, 24)])
    seen: list[Progress] = []
    recipe = QuantizationRecipe()
    bare = evaluate(llama_base, data, quantization=recipe)
    tuned = evaluate(llama_base, data, quantization=recipe, adapter=adapter, on_progress=seen.append)
    assert bare.precision == tuned.precision == "nf4"
    assert tuned.metrics["loss"] < 0.5 * bare.metrics["loss"]
    assert tuned.metrics["rouge_l"] > bare.metrics["rouge_l"]
    assert (tuned.metrics["generated_rows"], len(tuned.samples)) == (3, 2)
    assert tuned.samples[0].completion == "four"
    assert list(dict.fromkeys(progress.phase for progress in seen)) == ["data", "load", "evaluate", "generate"]
    assert "held as nf4 " in (seen[2].message or "")


def test_the_metrics_that_are_asked_for_and_bits_by_the_length_of_the_texts(llama_base: Path, pairs: Path) -> None:
    from transformers import AutoModelForCausalLM

    spec = build(EvaluationSpec, **SPEC.model_dump(), metrics="exact_match,chrf, exact_match")
    assert spec.metrics == ["exact_match", "chrf"]
    found = evaluate(llama_base, pairs, spec).metrics
    assert {"exact_match", "chrf"} <= found.keys()
    assert "rouge_l" not in found
    said = sum(len(row.fields["completion"].encode()) for row in read_rows(pairs))
    model = AutoModelForCausalLM.from_pretrained(llama_base)
    examples = tokenise(read_rows(pairs), load_tokenizer(llama_base), loss_on=None, max_length=1024).examples
    without_end = [replace(example, labels=[*example.labels[:-1], IGNORED]) for example in examples]
    nats = sum(plain_loss(model, example) for example in without_end)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / said, rel=1e-5)
    tokens = sum(example.supervised_tokens for example in without_end)
    assert found["content_loss"] == pytest.approx(nats / tokens, rel=1e-5)


def test_rows_that_are_too_long_are_counted_and_told_by_number(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Of one the prompt alone fills the length, of the other the end of the answer is cut off."""
    rows = [
        {"prompt": "say four: ", "completion": "four"},
        {"prompt": "two and " * 40, "completion": "four"},
        {"prompt": "one: ", "completion": "two and " * 40},
        {"prompt": "two: ", "completion": "two"},
    ]
    spec = SPEC.model_copy(update={"max_length": 32})
    report = evaluate(llama_base, data := write_jsonl(rows), spec, rows_to=tmp_path)
    names = ("rows", "failed_rows", "unscored_rows", "shortened_rows")
    assert [report.metrics[name] for name in names] == [3, 0, 1, 1]
    assert [(row.row, row.unscored, row.loss_sum is None) for row in rows_of(report, tmp_path)] == [
        (0, None, False), (1, "too_long", True), (2, None, False), (3, None, False),
    ]  # fmt: skip
    assert report.conditions.failed == {}
    # A record that does not say so is computed again, and one that does is taken.
    silent = sorted(report.metrics.keys() - {"unscored_rows", "shortened_rows"})
    of = {"conditions": report.conditions, "libraries": report.libraries, "samples": 9}
    recorded = [RecordedScores(id="silent", metrics=silent, **of)]
    assert evaluate(llama_base, data, spec, recorded=recorded).metrics["unscored_rows"] == 1
    recorded.append(RecordedScores(id="told", metrics=sorted(report.metrics), **of))
    with pytest.raises(AlreadyRecorded) as caught:
        evaluate(llama_base, data, spec, recorded=recorded)
    assert caught.value.ident == "told"
    whole = evaluate(llama_base, write_jsonl([rows[0], rows[3]]), spec)
    assert not {"unscored_rows", "shortened_rows"} & whole.metrics.keys()


def test_prompts_that_are_cut_for_their_answers_are_counted(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Of few positions an answer of many tokens leaves its prompt few."""
    base = shutil.copytree(llama_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 48}))
    data = write_jsonl([{"prompt": text, "completion": "four"} for text in ("say four: ", "two and " * 3)])
    prompts = [len(load_tokenizer(base)(text)["input_ids"]) for text in ("say four: ", "two and " * 3)]
    assert max(prompts) < 44
    few = SPEC.model_copy(update={"generate_rows": 2, "max_new_tokens": 4})
    whole = evaluate(base, data, few)
    assert "shortened_prompt_rows" not in whole.metrics
    many = SPEC.model_copy(update={"generate_rows": 2, "max_new_tokens": 48 - max(prompts) + 1})
    found = evaluate(base, data, many)
    assert (found.metrics["shortened_prompt_rows"], found.metrics["rows"]) == (1, 2)
    assert "shortened_rows" not in found.metrics
    assert found.conditions.prompt_tokens == max(prompts) - 1
    # A record that does not say so is computed again.
    silent = sorted(found.metrics.keys() - {"shortened_prompt_rows"})
    of = {"conditions": found.conditions, "libraries": found.libraries, "samples": 9}
    again = evaluate(base, data, many, recorded=[RecordedScores(id="silent", metrics=silent, **of)])
    assert again.metrics["shortened_prompt_rows"] == 1
    none = SPEC.model_copy(update={"generate_rows": 2, "max_new_tokens": 48})
    with pytest.raises(
        PipelineError, match="48 positions, so max_new_tokens 48 leaves none for a prompt; lower"
    ) as caught:
        evaluate(base, data, none)
    assert caught.value.reason == "spec"
    assert evaluate(base, data, none.model_copy(update={"generate_rows": 0})).metrics["loss"] == whole.metrics["loss"]


def test_references_that_no_answer_is_as_long_as_are_counted(
    llama_base: Path, write_jsonl: Callable[..., Path]
) -> None:
    """Such an answer is right in no way, which the limit says and not the model."""
    rows = [
        {"prompt": "one: ", "references": ["two and " * 9, "four"]},
        {"prompt": "two: ", "references": ["two and " * 9, "and two " * 9]},
        {"prompt": "four: ", "references": ["two", "four"]},
    ]
    data, tokenizer = write_jsonl(rows), load_tokenizer(llama_base)
    longest = len(tokenizer(("two and " * 9).strip(), add_special_tokens=False)["input_ids"])
    short = SPEC.model_copy(update={"max_new_tokens": longest - 1})
    found = evaluate(llama_base, data, short)
    assert found.metrics["longer_reference_rows"] == 1
    assert found.conditions is not None
    of = {"conditions": found.conditions, "libraries": found.libraries, "samples": 9}
    silent = RecordedScores(id="silent", metrics=sorted(found.metrics.keys() - {"longer_reference_rows"}), **of)
    assert evaluate(llama_base, data, short, recorded=[silent]).metrics["longer_reference_rows"] == 1
    for enough in ({"max_new_tokens": longest + 9}, {"max_new_tokens": longest - 1, "generate_rows": 1}):
        metrics = evaluate(llama_base, data, SPEC.model_copy(update=enough)).metrics
        assert "longer_reference_rows" not in metrics


def test_rows_without_a_prompt_are_not_generated(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    report = evaluate(llama_base, write_jsonl([{"text": "the cat sat"}]))
    assert report.metrics["generated_rows"] == 0
    assert "rouge_l" not in report.metrics


@pytest.mark.parametrize("fault", ["prefix", "missing", "empty", "other base"])
def test_an_adapter_that_would_load_and_change_nothing_is_refused(
    llama_base: Path, gpt2_base: Path, adapter: Path, pairs: Path, tmp_path: Path, fault: str
) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(adapter, tmp_path / "broken")
    weights = broken / "adapter_model.safetensors"
    tensors = load_file(weights)
    if fault == "prefix":
        tensors = {name.replace("base_model.model.", "base_model.model.wrapped."): t for name, t in tensors.items()}
    elif fault == "missing":
        tensors.pop(sorted(tensors)[0])
    elif fault == "empty":
        tensors = {}
    save_file(tensors, weights, metadata={"format": "pt"})
    base = gpt2_base if fault == "other base" else llama_base
    with pytest.raises(PipelineError) as caught:
        evaluate(base, pairs, adapter=broken)
    assert caught.value.reason == "adapter"


def test_generation_stops_at_the_end_of_turn_that_was_learnt(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """The end of a turn is neither the tokenizer's end of text nor one that the base's generation config names."""
    base = shutil.copytree(llama_base, tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|pad|>"}))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    turns = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]
    data = write_jsonl([{"messages": turns}] * 8)
    report = run_training(base, data, tmp_path / "adapter", spec=LEARNING)
    assert report.rendering.stop_ids == [load_tokenizer(llama_base).eos_token_id]
    spec = SPEC.model_copy(update={"max_new_tokens": 20})
    scored = evaluate(base, data, spec, adapter=tmp_path / "adapter")
    assert scored.metrics["rouge_l"] == 1.0
    assert [sample.completion for sample in scored.samples] == ["four", "four"]
    # Rows of plain text say nothing of a turn: the version's own files do, and its record.
    pairs = write_jsonl([{"prompt": "<|user|>two and two?<|end|>\n<|assistant|>", "completion": "four"}])
    assert evaluate(base, pairs, spec, adapter=tmp_path / "adapter").samples[0].completion == "four"
    (tmp_path / "adapter" / "generation_config.json").unlink()
    assert evaluate(base, pairs, spec, adapter=tmp_path / "adapter").samples[0].completion != "four"
    told = evaluate(base, pairs, spec, adapter=tmp_path / "adapter", stop_ids=report.rendering.stop_ids)
    assert told.samples[0].completion == "four"
