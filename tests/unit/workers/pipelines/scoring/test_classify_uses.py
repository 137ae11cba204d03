"""What becomes of a classification that was trained: scored, merged, and loaded again by plain transformers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import encoders, tiny
from support.evaluated import rows_of
from support.evaluated import score as score_target
from support.merges import Made, merge, require_published
from support.trainings import run_training
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts, inspect_config, inspect_weights
from registry.artifacts.admission.rules import judge
from registry.errors import Verification
from registry.jobs.kinds.evaluation_rows import differences
from registry.rows.sums import summed
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.pushing.pack import pack_adapter
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, MergeReport
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.wire import digest_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import save_tensors
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.scoring import labels

TEXTS = [row["text"] for row in encoders.topic_rows(seed=200, count=9)]
KINDS = {
    "bert": ("lora", lambda folder: encoders.save_bert(folder, pooler=False)),
    "roberta": ("qlora", encoders.save_roberta),
    "llama": ("lora", tiny.save_llama),
}


class Trained(NamedTuple):
    """A base, its adapter, and what was said of it."""

    base: Path
    adapter: Path
    report: TrainingReport
    folder: Path


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    method, save = KINDS[request.param]
    base = save(folder / "base")
    encoders.write_topics(folder / "heldout.jsonl", seed=100, count=24)
    rows, held_out = encoders.write_topics(folder / "rows.jsonl"), folder / "heldout.jsonl"
    asked = {"targets": "all-linear", "rank": 4, "max_steps": 30, "batch_size": 6, "grad_accum": 2, "lr": 5e-3}
    report = run_training(base, rows, folder / "out", eval_data=held_out, method=method, **asked)
    return Trained(base, folder / "out", report, folder)


def score(
    made: Trained,
    data: Path,
    rows_to: Path | None = None,
    adapter: Path | None = None,
    bases: SharedBase | None = None,
    **spec: Any,
) -> EvaluationReport:
    assert made.report.labels is not None
    given: dict[str, Any] = {"quantization": made.report.quantization, "labels": made.report.labels, "bases": bases}
    return score_target(made.base, data, adapter or made.adapter, spec=EvaluationSpec(**spec), rows_to=rows_to, **given)


def test_an_evaluation_finds_the_scores_of_the_training(made: Trained) -> None:
    report = score(made, made.folder / "heldout.jsonl", keep_samples=3)
    for name in ("loss", "accuracy", "macro_f1"):
        assert report.metrics[name] == pytest.approx(made.report.metrics[f"eval_{name}"], abs=1e-5)
    assert report.metrics["rows"] == 24
    rows = encoders.topic_rows(seed=100, count=3)
    assert [(sample.prompt, sample.reference) for sample in report.samples] == [
        (row["text"], row["label"]) for row in rows
    ]
    assert {sample.completion for sample in report.samples} <= set(made.report.labels or ())
    assert "shortened_rows" not in report.metrics
    long = {**rows[0], "text": " ".join(row["text"] for row in rows * 20)}
    (made.folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows[1:], long)))
    assert score(made, made.folder / "long.jsonl", max_length=64).metrics["shortened_rows"] == 1


def test_a_row_without_a_loss_is_in_no_score_and_each_says_so(
    made: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two accuracies over other rows are subtracted from one another."""
    real = labels.guesses

    def some_nan(*given: Any) -> Any:
        for part in real(*given):
            yield [guess._replace(loss=math.nan) if guess.example.row in (2, 7) else guess for guess in part]

    whole = score(made, made.folder / "heldout.jsonl")
    monkeypatch.setattr(labels, "guesses", some_nan)
    found = score(made, made.folder / "heldout.jsonl", rows_to=tmp_path)
    names = ("loss", "accuracy", "macro_f1", "expected_calibration_error")
    assert found.conditions.failed == dict.fromkeys(names, digest_of([2, 7]))
    assert (found.metrics["rows"], found.metrics["failed_rows"]) == (22, 2)
    assert [found.metrics[f"{name}_rows"] for name in names[1:]] == [22, 22, 22]
    assert not any(f"{name}_rows" in whole.metrics for name in names)
    assert list(differences(found.rows, found, summed(rows_of(found, tmp_path)).totals())) == []


def test_several_share_one_base_and_score_as_each_alone(made: Trained, tmp_path: Path) -> None:
    other = shutil.copytree(made.adapter, tmp_path / "other")
    # Also its head is another one.
    tensors = {name: 0.5 * tensor for name, tensor in load_file(other / "adapter_model.safetensors").items()}
    save_tensors(tensors, other / "adapter_model.safetensors", labels=made.report.labels or ())
    data, shared = made.folder / "heldout.jsonl", SharedBase()
    adapters = [made.adapter, other, made.adapter]
    alone = [score(made, data, adapter=adapter).metrics["loss"] for adapter in adapters]
    together = [score(made, data, adapter=adapter, bases=shared).metrics["loss"] for adapter in adapters]
    assert together == alone
    assert alone[0] != alone[1]
    assert shared.loads == 1


@pytest.mark.filterwarnings("ignore")
def test_each_row_has_its_label_and_how_sure_plain_transformers_is(made: Trained, tmp_path: Path) -> None:
    data = made.folder / "heldout.jsonl"
    report = score(made, data, rows_to=tmp_path, batch_size=5)
    rows = rows_of(report, tmp_path)
    given = [json.loads(line) for line in data.read_text().splitlines()]
    assert [row.expected for row in rows] == [row["label"] for row in given]
    hits = [row.prediction == row.expected for row in rows]
    assert sum(hits) / len(rows) == report.metrics["accuracy"]
    if made.report.quantization is None:
        base = AutoModelForSequenceClassification.from_pretrained(made.base, num_labels=3)
        tokenizer = AutoTokenizer.from_pretrained(made.base)
        adapted = PeftModel.from_pretrained(base, made.adapter).eval()
        for row, one in zip(rows, given, strict=True):
            with torch.no_grad():
                logits = adapted(**tokenizer(one["text"], return_tensors="pt", return_token_type_ids=False)).logits
            surest, place = logits[0].double().softmax(-1).max(-1)
            assert row.confidence == pytest.approx(float(surest), abs=1e-5)
            assert row.prediction == (made.report.labels or [])[int(place)]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, hit in zip(rows, hits, strict=True):
        assert row.confidence is not None
        bins.setdefault(math.ceil(row.confidence * 10), []).append((row.confidence, hit))
    gaps = (abs(sum(hit for _, hit in one) - sum(sure for sure, _ in one)) for one in bins.values())
    assert report.metrics["expected_calibration_error"] == pytest.approx(sum(gaps) / len(rows), abs=1e-9)
    silent = score(made, data, rows_to=tmp_path, keep_samples=0)
    of_silent = rows_of(silent, tmp_path)
    assert all(row.expected is row.prediction is None and row.confidence is not None for row in of_silent)
    # Its bare base has no labels, so nothing is measured against it.
    assert report.conditions.general_texts is None
    assert "general_kl" not in report.metrics


def test_rows_that_it_was_not_trained_for_are_refused(made: Trained, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "pear", "label": "fruit"}\n{"text": "a cow", "label": "animal"}\n')
    with pytest.raises(PipelineError, match="line 2 has the label 'animal', which no training row has"):
        score(made, data)
    with pytest.raises(PipelineError, match="leave loss_on out"):
        score(made, made.folder / "heldout.jsonl", loss_on="all")
    data.write_text('{"text": "pear"}\n')
    with pytest.raises(PipelineError, match="'classify' needs rows of"):
        score(made, data)


def test_rows_with_labels_score_no_causal_model(tmp_path: Path) -> None:
    base = tiny.save_llama(tmp_path / "base")
    data = encoders.write_topics(tmp_path / "rows.jsonl")
    with pytest.raises(PipelineError, match="teach labels of whole texts") as caught:
        score_target(base, data)
    assert caught.value.reason == "data"


def merged(made: Trained, out: Path, **spec: Any) -> MergeReport:
    said = {"quantization": made.report.quantization, "labels": made.report.labels}
    return merge(made.base, made.adapter, out, **said, **spec)


@pytest.mark.filterwarnings("ignore")
def test_a_merged_classification_is_loaded_by_plain_transformers(made: Trained, tmp_path: Path) -> None:
    report = merged(made, tmp_path / "out", onto="original")
    require_published(Made(made.base, made.adapter), tmp_path / "out", report, classifies=True)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] | info["mismatched_keys"] | info["unexpected_keys"]
    assert model.config.id2label == dict(enumerate(made.report.labels or ()))
    assert model.config.label2id == {"fruit": 0, "tool": 1, "weather": 2}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    base = AutoModelForSequenceClassification.from_pretrained(made.base, num_labels=3)
    base.config.pad_token_id = model.config.pad_token_id
    adapted = PeftModel.from_pretrained(base, made.adapter).eval()
    with torch.no_grad():
        expected = adapted(**batch).logits
        assert torch.allclose(model.eval()(**batch).logits, expected, atol=1e-4)
    if made.report.quantization is None:
        assert report.metrics["logit_kl_original"] < 1e-6
    said = pipeline("text-classification", model=model, tokenizer=tokenizer)(TEXTS)
    assert [found["label"] for found in said] == [(made.report.labels or [])[n] for n in expected.argmax(-1).tolist()]
    head = load_file(made.adapter / "adapter_model.safetensors")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in head.items():
        if "lora_" not in name:
            assert torch.equal(tensor, stored[name.removeprefix("base_model.model.")])


def test_over_four_bits_the_nearer_base_is_kept(made: Trained, tmp_path: Path) -> None:
    if made.report.quantization is None:
        pytest.skip("its base was not quantised")
    report = merged(made, tmp_path / "out")
    assert report.onto == "dequantized"
    assert report.metrics["logit_kl_dequantized"] < min(1e-4, report.metrics["logit_kl_original"])


class TestGate:
    """What a training writes passes, and what was changed in it does not."""

    def facts(self, made: Trained, tmp_path: Path) -> tuple[WeightFacts, ConfigFacts, dict[str, Any]]:
        base = scan_base(made.base, cache=Cache(tmp_path / "cache")).registration
        staging = tmp_path / "staging"
        staging.mkdir()
        package = pack_adapter(
            made.adapter, base_id="tiny", base_revision=None, base_fingerprint="f" * 64, staging=staging
        )
        weights = made.adapter / "adapter_model.safetensors"
        with weights.open("rb") as file, (staging / "adapter_config.json").open("rb") as config:
            return (
                inspect_weights(file, size_bytes=weights.stat().st_size, lora=package.lora),
                inspect_config(config),
                {"lora": package.lora, "base_tensors": base.tensors, "base_config": base.config},
            )

    def test_what_was_trained_passes_without_a_warning(self, made: Trained, tmp_path: Path) -> None:
        weights, config, about = self.facts(made, tmp_path)
        assert about["lora"] == made.report.lora
        assert judge(weights, config, labels=3, **about) == []
        assert judge(weights, config, **about) == []

    def test_another_number_of_labels_or_width_does_not(self, made: Trained, tmp_path: Path) -> None:
        weights, config, about = self.facts(made, tmp_path)
        with pytest.raises(Verification, match="no matrix of the head has a row for each of 4 labels"):
            judge(weights, config, labels=4, **about)
        about["base_config"] = {**about["base_config"], "hidden_size": 48}
        with pytest.raises(Verification, match="fits no head over a base that is 48 wide"):
            judge(weights, config, labels=3, **about)

    def test_without_its_head_it_would_be_random(self, made: Trained, tmp_path: Path) -> None:
        weights, config, about = self.facts(made, tmp_path)
        kept = [tensor for tensor in weights.tensors() if "lora_" in tensor.name]
        with pytest.raises(Verification, match="without a head, so its head would be random"):
            judge(WeightFacts.of(kept), config, labels=3, **about)

    def test_the_record_says_what_the_config_does(self, made: Trained, tmp_path: Path) -> None:
        weights, config, about = self.facts(made, tmp_path)
        other = {**about, "lora": about["lora"].model_copy(update={"task_type": "CAUSAL_LM"})}
        with pytest.raises(Verification, match="disagree on task_type"):
            judge(weights, config, labels=3, **other)
        causal = config.model_copy(update={"task_type": "CAUSAL_LM"})
        other["base_config"] = {"model_type": "llama"}
        with pytest.raises(Verification, match="the record names labels"):
            judge(weights, causal, labels=3, **other)
