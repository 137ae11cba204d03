"""What an adapter changed on general texts, as PEFT and transformers have it by themselves."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.evaluated import score
from support.merges import save_as_pushed

from sdk.schemas.evaluation import EvaluationReport
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.data.fixed_texts import GENERAL_DIGEST, GENERAL_TEXTS, MOST_TOKENS
from workers.pipelines.model.causality import fixed_texts, logits_of
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.scoring import forgetting

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted(base: Path, folder: Path, **moved: float) -> Path:
    """Save an adapter whose parts were moved by as much."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        for part, scale in moved.items():
            if part in name:
                parameter.data += scale * torch.randn_like(parameter)
    return save_as_pushed(model, folder, save_embedding_layers=False)


@pytest.fixture(scope="module")
def still(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(llama_base, tmp_path_factory.mktemp("still"), lora_A=0.5)


@pytest.fixture(scope="module")
def strong(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(llama_base, tmp_path_factory.mktemp("strong"), lora_B=0.3)


def run(base: Path, adapter: Path | None, data: Path, **more: Any) -> EvaluationReport:
    return score(base, data, adapter, **more)


@pytest.mark.parametrize("quantization", [None, QuantizationRecipe()], ids=["float32", "nf4"])
def test_an_adapter_that_changes_nothing_is_no_divergence_to_the_last_digit(
    llama_base: Path, still: Path, pairs: Path, quantization: QuantizationRecipe | None
) -> None:
    found = run(llama_base, still, pairs, quantization=quantization).metrics
    assert found["general_kl"] == 0.0
    assert found["general_loss"] == found["general_loss_base"] > 0


def test_divergence_and_losses_are_those_of_peft_alone(llama_base: Path, strong: Path, pairs: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_base)
    bare = AutoModelForCausalLM.from_pretrained(llama_base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_base), strong)
    divergence = loss = loss_base = tokens = 0.0
    for text in GENERAL_TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"][:MOST_TOKENS]])
        with torch.no_grad():
            p, q = (one(ids).logits[0, :-1].double().log_softmax(-1) for one in (bare, model))
        divergence += float((p.exp() * (p - q)).sum())
        places = torch.arange(ids.shape[1] - 1)
        loss_base -= float(p[places, ids[0, 1:]].sum())
        loss -= float(q[places, ids[0, 1:]].sum())
        tokens += ids.shape[1] - 1
    found = run(llama_base, strong, pairs).metrics
    assert found["general_tokens"] == tokens
    assert found["general_kl"] == pytest.approx(divergence / tokens, rel=1e-4)
    assert found["general_loss"] == pytest.approx(loss / tokens, rel=1e-5)
    assert found["general_loss_base"] == pytest.approx(loss_base / tokens, rel=1e-5)
    assert found["general_kl"] > 0.01
    assert found["general_loss"] != found["general_loss_base"]


def test_the_bare_base_is_read_once_for_all_adapters_and_left_as_it_was(
    llama_base: Path, strong: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = adapted(llama_base, tmp_path / "other", lora_B=0.1)
    read: list[Any] = []
    real = forgetting.read_bare
    monkeypatch.setattr("workers.pipelines.scoring.target.read_bare", lambda *given: read.append(1) or real(*given))
    shared = SharedBase()
    found = [run(llama_base, adapter, pairs, bases=shared) for adapter in (strong, other, None, strong)]
    assert (shared.loads, len(read)) == (1, 1)
    alone = [run(llama_base, adapter, pairs).metrics for adapter in (strong, other, None)]
    for name in ("general_loss", "general_loss_base", "general_kl"):
        assert [one.metrics[name] for one in found[:3]] == [one[name] for one in alone]
    assert found[0].metrics["general_kl"] == found[3].metrics["general_kl"]
    # Of the bare base itself.
    bare = found[2].metrics
    assert (bare["general_kl"], bare["general_loss"]) == (0.0, bare["general_loss_base"])

    def logits(bases: SharedBase) -> Any:
        with bases.wearing(None, key=(llama_base, None, None), load=lambda: loaded()) as (_, model):
            return logits_of(model, fixed_texts(model))

    def loaded() -> Any:
        from workers.pipelines.model.device import choose_device
        from workers.pipelines.model.loading import load_base

        return load_base(llama_base, choose_device(), quantization=None)

    assert torch.equal(logits(shared), logits(SharedBase()))
    assert shared.loads == 1


def test_scores_say_which_texts_they_are_on(llama_base: Path, strong: Path, pairs: Path) -> None:
    conditions = [run(llama_base, adapter, pairs).conditions for adapter in (strong, None)]
    assert all(one is not None and one.general_texts == GENERAL_DIGEST for one in conditions)
    assert conditions[0] == conditions[1]


def test_what_is_no_number_is_left_out_and_said(
    llama_base: Path, strong: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = forgetting.divergence
    monkeypatch.setattr(forgetting, "divergence", lambda *given: real(*given)._replace(kl=torch.tensor([math.nan])))
    said: list[str] = []
    found = run(llama_base, strong, pairs, on_progress=lambda progress: said.append(progress.message or "")).metrics
    assert not any(name.startswith("general") for name in found)
    assert any("no general_loss" in line for line in said)


def test_the_texts_are_of_many_kinds_and_few() -> None:
    assert 24 <= len(GENERAL_TEXTS) <= 40
    assert sum(len(text.encode()) for text in GENERAL_TEXTS) <= 20_000
    alphabets = ((0x370, 0x3FF), (0x400, 0x4FF), (0x600, 0x6FF), (0x900, 0x97F), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3))
    for low, high in alphabets:
        assert any(low <= ord(sign) <= high for sign in itertools.chain.from_iterable(GENERAL_TEXTS))
