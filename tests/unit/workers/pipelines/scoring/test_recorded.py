"""Scores that are recorded already are known before the base is loaded, and only those that would be found again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import score
from support.fixtures import Limits
from support.trainings import run_training

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring import evaluate as evaluating
from workers.pipelines.scoring import target
from workers.pipelines.scoring.recorded import AlreadyRecorded

SPEC = EvaluationSpec(batch_size=3, generate_rows=2, max_new_tokens=4, keep_samples=2, metrics=["exact_match", "chrf"])
NF4 = QuantizationRecipe()


class LoadedError(Exception):
    """The base was to be loaded."""


def evaluate(base: Path, data: Path, spec: EvaluationSpec = SPEC, **rest: Any) -> EvaluationReport:
    return score(base, data, spec=spec, **rest)


def recorded(report: EvaluationReport, **changed: Any) -> RecordedScores:
    assert report.conditions is not None
    said = {
        "id": "earlier",
        "conditions": report.conditions,
        "libraries": report.libraries,
        "metrics": list(report.metrics),
        "samples": len(report.samples),
    }
    return RecordedScores.model_validate({**said, **changed})


@pytest.fixture
def data(write_jsonl: Callable[..., Path]) -> Path:
    turns = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]
    return write_jsonl([{"messages": turns}, {"messages": turns * 2}])


@pytest.fixture
def adapter(llama_base: Path, data: Path, tmp_path: Path) -> Path:
    spec = TrainingSpec(rank=2, max_steps=1, lr=0.02, batch_size=2, grad_accum=1, targets="all-linear")
    run_training(llama_base, data, tmp_path / "adapter", spec=spec)
    return tmp_path / "adapter"


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, whoever loads a base fails."""

    def load(*given: Any, **said: Any) -> None:
        raise LoadedError

    return lambda: monkeypatch.setattr(target, "load_base", load)


@pytest.mark.parametrize("recipe", [None, NF4], ids=["native", "nf4"])
def test_what_would_be_found_again_is_taken_without_the_base(
    llama_base: Path, data: Path, unloaded: Callable[[], None], recipe: QuantizationRecipe | None
) -> None:
    report = evaluate(llama_base, data, quantization=recipe)
    held = report.conditions.quantization
    assert (held is None) == (recipe is None)
    unloaded()
    # Our own release and Python's don't change scores; what does has a number in the conditions.
    earlier = recorded(report, libraries={**report.libraries, "adapterctl": "0.0.1", "python": "3.0", "driver": "1"})
    other = recorded(report, id="other", libraries={"torch": "1.0"})
    again = {"quantization": recipe, "recorded": [other, earlier]}
    # Fewer metrics and samples, and rows in other batches, are in the record.
    for spec in (SPEC, SPEC.model_copy(update={"metrics": ["chrf"], "keep_samples": 0, "batch_size": 1})):
        with pytest.raises(AlreadyRecorded) as caught:
            evaluate(llama_base, data, spec, **again)
        assert caught.value.ident == "earlier"
    for changed in (
        {"max_new_tokens": 5},
        {"generate_rows": 1},
        {"max_length": 128},
        {"loss_on": "all"},
        {"metrics": ["rouge_l"]},
    ):
        with pytest.raises(LoadedError):
            evaluate(llama_base, data, SPEC.model_copy(update=changed), **again)
    unlike = QuantizationRecipe(double_quant=False) if recipe else NF4
    with pytest.raises(LoadedError):
        evaluate(llama_base, data, quantization=unlike, recorded=[earlier])
    with pytest.raises(LoadedError):
        evaluate(llama_base, data, quantization=recipe, recorded=[earlier], stop_ids=[3])
    conditions = report.conditions.model_copy(update={"failed": {"loss": "a" * 64}})
    assert {"adapterctl", "python"} <= report.libraries.keys()
    for record in ({"libraries": {**report.libraries, "peft": "0"}}, {"samples": 1}, {"conditions": conditions}):
        with pytest.raises(LoadedError):
            evaluate(llama_base, data, quantization=recipe, recorded=[recorded(report, **record)])


def test_a_bare_base_with_modules_left_wide_as_beside_another_adapter_is_computed(
    llama_base: Path, data: Path, unloaded: Callable[[], None]
) -> None:
    recipe = QuantizationRecipe(skipped_modules=["lm_head", "q_proj"])
    report = evaluate(llama_base, data, quantization=recipe)
    unloaded()
    head = QuantizationRecipe(skipped_modules=["lm_head"])
    with pytest.raises(LoadedError):
        evaluate(llama_base, data, quantization=head, recorded=[recorded(report)])
    with pytest.raises(LoadedError):
        evaluate(llama_base, data, quantization=recipe, recorded=[recorded(report)])


def test_scores_of_another_scoring_are_computed_again(
    llama_base: Path, data: Path, unloaded: Callable[[], None], limits: Limits
) -> None:
    report = evaluate(llama_base, data)
    # Keys of what is stored stay what they are.
    assert "scoring" not in report.conditions.model_dump(mode="json")
    unloaded()
    with pytest.raises(AlreadyRecorded):
        evaluate(llama_base, data, recorded=[recorded(report)])
    limits(evaluating, SCORING_VERSION=2)
    with pytest.raises(LoadedError):
        evaluate(llama_base, data, recorded=[recorded(report)])
    newer = report.conditions.model_copy(update={"scoring": 2})
    assert newer.model_dump(mode="json")["scoring"] == 2
    with pytest.raises(AlreadyRecorded):
        evaluate(llama_base, data, recorded=[recorded(report, conditions=newer)])


def test_an_adapter_s_own_4_bits_and_those_of_any_other_are_not_one(
    llama_base: Path, adapter: Path, data: Path, unloaded: Callable[[], None]
) -> None:
    own = QuantizationRecipe(skipped_modules=["lm_head", "q_proj"])
    as_trained, nf4 = (SPEC.model_copy(update={"precision": precision}) for precision in ("as-trained", "nf4"))
    found = {
        "own": evaluate(llama_base, data, as_trained, adapter=adapter, quantization=own),
        "nf4": evaluate(llama_base, data, nf4, adapter=adapter, quantization=NF4),
    }
    unloaded()
    for spec, recipe, same, other in ((as_trained, own, "own", "nf4"), (nf4, NF4, "nf4", "own")):
        with pytest.raises(AlreadyRecorded):
            evaluate(llama_base, data, spec, adapter=adapter, quantization=recipe, recorded=[recorded(found[same])])
        with pytest.raises(LoadedError):
            evaluate(llama_base, data, spec, adapter=adapter, quantization=recipe, recorded=[recorded(found[other])])
