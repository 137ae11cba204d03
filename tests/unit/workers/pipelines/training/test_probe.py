"""The probe of a training: what plain PEFT says of the saved folder, recorded, and found again from the record alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support import encoders, tiny
from support.evaluated import score
from support.experts import save_experts
from support.trainings import run_training
from transformers import AutoModelForCausalLM, AutoTokenizer

import workers.pipelines.training.train as module
from sdk.schemas.probe import ProbeReport, ProbeRequest, recorded_probe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from workers.pipelines.data.fixed_texts import PROBE_TEXTS, TEXTS_DIGEST
from workers.pipelines.errors import PipelineError
from workers.pipelines.scoring.replay import replay

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SPEC = TrainingSpec(method="lora", rank=4, dropout=0.0, max_steps=3, lr=0.01, batch_size=2, grad_accum=2, seed=3)


def trained(base: Path, data: Path, out: Path, **changed: Any) -> TrainingReport:
    return run_training(base, data, out, spec=SPEC.model_copy(update=changed))


def recorded(report: TrainingReport) -> ProbeReport:
    """The probe as a reader finds it in a version's record, which travels as JSON."""
    kept = json.loads(report.model_dump_json())
    found = recorded_probe(kept["metrics"], TrainingRecord.read(kept["training"]))
    assert found is not None
    return found


def request_of(report: TrainingReport, base: Path, adapter: Path) -> ProbeRequest:
    """What a consumer asks for, from the record alone."""
    said = report.training
    return ProbeRequest(
        base=str(base),
        adapter=str(adapter),
        quantization=report.quantization,
        dtype=said["dtype"],
        held=None if said["base_weights"] == "native" else said["base_weights"],
        labels=report.labels,
        pad_token_id=said.get("pad_token_id"),
        seed=said["seed"],
    )


def by_hand(base: Path, adapter: Path) -> list[tuple[int, float, float]]:
    """Tokens, logit gap and KL of each text, by plain transformers and PEFT, in float64 from the logits on."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted, found = PeftModel.from_pretrained(model, adapter).eval(), []
    for text in PROBE_TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"][:128]])
        with torch.no_grad():
            q = adapted(ids).logits.reshape(-1, adapted(ids).logits.shape[-1]).double()
            with adapted.disable_adapter():
                p = adapted(ids).logits.reshape(q.shape).double()
        kl = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none")
        found.append((ids.shape[1], float((p - q).abs().max()), float(kl.sum(-1).mean())))
    return found


@pytest.fixture(scope="module")
def plain(llama_base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingReport, Path]:
    """A training over the tiny Llama, and its folder; not to be changed."""
    out = tmp_path_factory.mktemp("plain") / "out"
    return trained(llama_base, pairs, out), out


@pytest.fixture(scope="module")
def experts_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_experts("qwen3_moe", tmp_path_factory.mktemp("experts"))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama_base", {}),
    "gpt2": ("gpt2_base", {"targets": "all-linear"}),
    "experts": ("experts_base", {"targets": "q_proj,experts.gate_up_proj,mlp.experts.down_proj"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_records_what_plain_peft_says_of_its_folder(
    request: pytest.FixtureRequest, pairs: Path, tmp_path: Path, case: str
) -> None:
    fixture, changed = CASES[case]
    base: Path = request.getfixturevalue(fixture)
    report = trained(base, pairs, tmp_path / "out", **changed)
    found = recorded(report)
    assert (found.texts_digest, len(found.texts)) == (TEXTS_DIGEST, len(PROBE_TEXTS))
    for text, (tokens, gap, kl) in zip(found.texts, by_hand(base, tmp_path / "out"), strict=True):
        assert (text.tokens, text.logit_gap) == (tokens, pytest.approx(gap, rel=1e-4))
        assert text.kl == pytest.approx(kl, rel=1e-4)
        assert tokens <= 128
    assert found.logit_gap > 1e-3
    assert report.metrics["probe_logit_gap"] == found.logit_gap
    assert report.metrics["probe_kl"] == pytest.approx(found.kl, rel=1e-12)
    # From the record alone, another process on this machine finds the same.
    answer = replay(request_of(report, base, tmp_path / "out"))
    assert (answer.report, answer.dtype, answer.device) == (found, "float32", "cpu")


@pytest.mark.parametrize("base", ["llama_base", "gpt2_base"])
def test_over_a_quantised_base_it_is_of_that(
    request: pytest.FixtureRequest, pairs: Path, tmp_path: Path, base: str
) -> None:
    folder: Path = request.getfixturevalue(base)
    report = trained(folder, pairs, tmp_path / "out", method="qlora", targets="all-linear")
    found = recorded(report)
    assert replay(request_of(report, folder, tmp_path / "out")).report == found
    # The base that was quantised is another one.
    other = request_of(report, folder, tmp_path / "out").model_copy(update={"quantization": None, "held": None})
    assert replay(other).report.kl != pytest.approx(found.kl, rel=1e-3)


def test_of_a_classification_the_labels_are_compared(tmp_path: Path) -> None:
    base = encoders.save_bert(tmp_path / "base", pooler=True)
    data = encoders.write_topics(tmp_path / "rows.jsonl")
    report = trained(base, data, tmp_path / "out", targets="all-linear")
    found = recorded(report)
    assert replay(request_of(report, base, tmp_path / "out")).report == found
    # The base has positions for as many.
    assert {text.tokens for text in found.texts} == {32}
    assert found.logit_gap > 1e-3
    # Which head the base itself has is known by its seed.
    other = request_of(report, base, tmp_path / "out").model_copy(update={"seed": 4})
    assert replay(other).report != found


def test_it_draws_no_random_numbers_and_changes_no_byte(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(llama_base, pairs, tmp_path / "one")
    drawn = torch.rand(4)
    monkeypatch.setattr(module, "probe_saved", lambda *given: (ProbeReport.model_validate(LEAST), None))
    trained(llama_base, pairs, tmp_path / "two")
    assert torch.equal(torch.rand(4), drawn)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


LEAST = {"texts_digest": "0" * 64, "texts": [{"tokens": 1, "logit_gap": 1e-6, "kl": 0.0}], "largest_logit": 1.0}


def test_a_training_that_moves_nothing_fails_and_says_what_to_do(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"moves no logit .* \(computed in float32\).*raise lr") as caught:
        trained(llama_base, pairs, tmp_path / "out", lr=1e-12)
    assert caught.value.reason == "untrained"


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (1e-30, "No gradient reaches 8 of 16 .*, since alpha"),
        (1e-10, r"changes nothing: alpha"),
        (1e-45, ", since alpha"),
    ],
)
def test_an_alpha_that_is_lost_in_float32_is_the_cause(
    llama_base: Path, pairs: Path, tmp_path: Path, alpha: float, said: str
) -> None:
    with pytest.raises(PipelineError, match=said) as caught:
        trained(llama_base, pairs, tmp_path / "out", alpha=alpha)
    assert caught.value.reason == "untrained"
    assert caught.value.message.endswith("which is lost in float32; give a larger alpha, such as 2·rank.")


def test_what_was_saved_is_measured_and_not_what_was_trained(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., None] = module.write_adapter

    def faint(out: Path, *, lora: Any, **said: Any) -> None:
        write(out, lora=lora.model_copy(update={"alpha": 1e-12}), **said)

    monkeypatch.setattr(module, "write_adapter", faint)
    with pytest.raises(PipelineError, match="moves no logit"):
        trained(llama_base, pairs, tmp_path / "out")


def test_logits_that_are_no_numbers_are_named(
    plain: tuple[TrainingReport, Path], llama_base: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(plain[1], tmp_path / "out")) / "adapter_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(PipelineError, match="fixed text 1 are not finite"):
        replay(request_of(plain[0], llama_base, tmp_path / "out"))


def test_the_tiny_llama_is_told_from_another(plain: tuple[TrainingReport, Path], tmp_path: Path) -> None:
    report, out = plain
    other = tiny.save_llama(tmp_path / "other", seed=9)
    assert replay(request_of(report, other, out)).report.kl != pytest.approx(recorded(report).kl, rel=1e-2)


@pytest.fixture
def wordy(llama_base: Path, tmp_path: Path) -> Path:
    """The tiny Llama with a tokenizer that has a word more than the embedding has rows, which a fixed text begins with."""
    base = shutil.copytree(llama_base, tmp_path / "wordy")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([PROBE_TEXTS[0][:6], "<unheard>"])
    tokenizer.save_pretrained(base)
    return base


def test_words_without_an_embedding_are_left_out_of_the_fixed_texts(wordy: Path, pairs: Path, tmp_path: Path) -> None:
    report = trained(wordy, pairs, tmp_path / "out")
    assert recorded(report).texts[0].tokens < len(AutoTokenizer.from_pretrained(wordy)(PROBE_TEXTS[0])["input_ids"])


def test_rows_with_such_a_word_are_refused_by_its_name(
    wordy: Path, pairs: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = write_jsonl([{"prompt": "say ", "completion": "<unheard>"}], "unheard.jsonl")
    with pytest.raises(PipelineError, match=r"the token '<unheard>' .* does not") as refused:
        trained(wordy, rows, tmp_path / "out")
    assert refused.value.reason == "data"
    with pytest.raises(PipelineError, match=r"the token '<unheard>' .* does not"):
        score(wordy, rows)
