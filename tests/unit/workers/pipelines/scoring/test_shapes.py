"""Each shape of rows: which metrics it has, in which order, what is reported meanwhile, and whose loss is whose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import encoders
from support.evaluated import score
from support.trainings import PREFERENCES, run_training, save_jsonl

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.events import Progress
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring import target
from workers.pipelines.scoring.recorded import AlreadyRecorded

pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = EvaluationSpec(batch_size=5, generate_rows=2, max_new_tokens=3, metrics=["exact_match"])
#: A metric that each shape has at its end, and those that a language model has before and behind its own.
ENDED = ["eval_s", "peak_memory_bytes"]
OF_LOSSES = ["loss", "perplexity", "supervised_tokens", "tokens", "tokens_per_s"]
OF_BASE = ["base_float32_parameters", "base_float32_bytes"]
GENERAL = ["general_loss", "general_loss_base", "general_kl", "general_tokens", "general_s"]
PER_LENGTH = ["content_loss", "bits_per_byte"]
OF_TEXTS = ["exact_match", "generate_s"]
COUNTED = ["rows", "failed_rows", "generated_rows"]
CHOICES = [{"prompt": "two and two is", "choices": [" three", " four"], "answer": number % 2} for number in range(3)]


@pytest.fixture(scope="module")
def preferring(llama_base: Path, preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preferring") / "out"
    run_training(llama_base, preferences, folder, method="lora", rank=4, lr=0.01, max_steps=2)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A base, held-out rows, and what an item has of an adapter that tells their labels."""
    folder = tmp_path_factory.mktemp("classifier")
    base, rows = encoders.save_bert(folder / "base"), encoders.write_topics(folder / "rows.jsonl")
    asked = {"targets": "all-linear", "rank": 2, "max_steps": 4, "batch_size": 6, "grad_accum": 1}
    report = run_training(base, rows, folder / "out", method="lora", **asked)
    data = encoders.write_topics(folder / "data.jsonl", seed=100, count=7)
    return base, data, {"adapter": folder / "out", "labels": report.labels}


def metrics_of(base: Path, data: Path, adapter: Path | None = None, spec: EvaluationSpec = SPEC) -> dict[str, float]:
    return score(base, data, adapter, spec=spec).metrics


def test_texts_have_losses_and_answers_scores_of_completions(
    llama_base: Path, pairs: Path, write_jsonl: Callable[..., Path]
) -> None:
    of_pairs, texts = (
        list(metrics_of(llama_base, data, spec=spec))
        for data, spec in ((pairs, SPEC), (write_jsonl([{"text": "the cat sat"}]), EvaluationSpec()))
    )
    assert of_pairs == [*OF_LOSSES, *OF_BASE, *GENERAL, *PER_LENGTH, *OF_TEXTS, *COUNTED, *ENDED]
    assert texts == [*OF_LOSSES, *OF_BASE, *GENERAL, *PER_LENGTH, *COUNTED, *ENDED]


def test_choices_have_accuracies_and_no_completions(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    report = score(llama_base, write_jsonl(CHOICES), spec=EvaluationSpec())
    own = ["acc", "acc_norm", "acc_bytes", "bits_per_byte"]
    assert list(report.metrics) == [*OF_LOSSES, *OF_BASE, *GENERAL, *own, *COUNTED, *ENDED]
    assert report.samples == []


def test_preferences_have_the_loss_of_what_is_rejected_and_an_adapter_its_margin(
    llama_base: Path, preferences: Path, preferring: Path
) -> None:
    behind = [*OF_BASE, *GENERAL, *PER_LENGTH, *OF_TEXTS, *COUNTED, *ENDED]
    spec = SPEC.model_copy(update={"max_new_tokens": 16})
    bare, adapted = (list(metrics_of(llama_base, preferences, adapter, spec)) for adapter in (None, preferring))
    assert bare == [*OF_LOSSES, "rejected_loss", *behind]
    assert adapted == [*OF_LOSSES, "rejected_loss", "preference_accuracy", "preference_margin", *behind]


@pytest.mark.parametrize("adapted", [False, True])
def test_losses_of_a_preference_are_those_of_its_answers_alone(
    llama_base: Path, preferences: Path, preferring: Path, tmp_path: Path, adapted: bool
) -> None:
    adapter, quiet = preferring if adapted else None, EvaluationSpec(generate_rows=0)
    found = metrics_of(llama_base, preferences, adapter, quiet)
    chosen, rejected = (
        metrics_of(
            llama_base,
            save_jsonl(
                tmp_path / f"{key}.jsonl", [{"prompt": row["prompt"], "completion": row[key]} for row in PREFERENCES]
            ),
            adapter,
            quiet,
        )
        for key in ("chosen", "rejected")
    )
    assert found["loss"] == pytest.approx(chosen["loss"], rel=1e-5)
    assert found["rejected_loss"] == pytest.approx(rejected["loss"], rel=1e-5)
    assert abs(chosen["loss"] - rejected["loss"]) > 1e-3
    for name in ("supervised_tokens", "tokens"):
        assert found[name] == chosen[name]
    assert found["bits_per_byte"] == pytest.approx(chosen["bits_per_byte"], rel=1e-5)


def test_labels_have_scores_of_labels_alone(classifier: tuple[Path, Path, dict[str, Any]]) -> None:
    base, data, item = classifier
    seen: list[Progress] = []
    report = score(base, data, spec=EvaluationSpec(batch_size=4), on_progress=seen.append, **item)
    own = ["loss", "accuracy", "macro_f1", "expected_calibration_error", "rows", "failed_rows"]
    assert list(report.metrics) == [*own, "tokens", "tokens_per_s", *ENDED]
    assert len(report.samples) == 4
    assert [(each.phase, each.step, each.message) for each in seen] == [
        ("data", None, "reading and tokenising rows"),
        ("load", None, "loading the base on cpu"),
        ("evaluate", 4, None),
        ("evaluate", 7, None),
    ]


def test_labels_that_are_recorded_are_taken_without_the_base(
    classifier: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _, item = classifier
    rows = encoders.topic_rows(seed=100, count=5)
    data = save_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": "apple and pear " * 4, "label": "fruit"}])

    def again(report: EvaluationReport, spec: EvaluationSpec, **changed: Any) -> EvaluationReport:
        of = {"conditions": report.conditions, "libraries": report.libraries, "samples": len(report.samples)}
        earlier = RecordedScores(**{"id": "earlier", "metrics": sorted(report.metrics), **of, **changed})
        return score(base, data, spec=spec, recorded=[earlier], **item)

    def load(*given: Any, **options: Any) -> Any:
        raise LookupError("the base is loaded")

    short = EvaluationSpec(max_length=8, keep_samples=2)
    report = score(base, data, spec=short, **item)
    assert report.metrics["shortened_rows"] == 1
    monkeypatch.setattr(target, "load_base", load)
    with pytest.raises(AlreadyRecorded, match="earlier"):
        again(report, short)
    # Rows have their labels without a generated text.
    with pytest.raises(AlreadyRecorded, match="earlier"):
        again(report, short, texts=False)
    for spec, changed in (
        (short.model_copy(update={"max_length": 9}), {}),
        (short, {"samples": 1}),
        (short, {"metrics": sorted(report.metrics.keys() - {"shortened_rows"})}),
    ):
        with pytest.raises(LookupError):
            again(report, spec, **changed)
