"""What versions answer: as plain transformers and PEFT say it, whatever the precision of the base; and engines held against it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support import tiny
from support.trainings import run_training
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdk.gateway.moves.probe import BaseScores, prove
from sdk.schemas.serving import CONTINUATION_TOKENS, DtypeName, ProbeVerdict, ServedProbe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data.continuations import served_probe
from workers.pipelines.data.fixed_texts import PROMPT_TEXTS, PROMPTS_DIGEST
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.single_precision import in_float32

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SPEC = TrainingSpec(method="lora", rank=4, dropout=0.0, max_steps=3, lr=0.02, batch_size=2, grad_accum=2, seed=3)


def trained(base: Path, data: Path, out: Path, **changed: Any) -> ServedProbe:
    report = run_training(base, data, out, spec=SPEC.model_copy(update=changed))
    read = TrainingReport.model_validate_json(report.model_dump_json()).served_probe
    assert read is not None
    return read


@pytest.fixture(scope="module")
def made(llama_base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ServedProbe, Path]:
    """What a training recorded of its version, and the version's folder."""
    out = tmp_path_factory.mktemp("trained")
    return trained(llama_base, pairs, out), out


def logits(model: Any, ids: Sequence[int]) -> Any:
    """(seq, vocab) logits in float64."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)])).logits[0].double()


def by_hand(model: Any, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
    found = logits(model, [*prompt, *continuation])[len(prompt) - 1 : -1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(found, continuation, strict=True)]


def greedy(model: Any, prompt: Sequence[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(CONTINUATION_TOKENS):
        ids.append(int(logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_record_of_a_training_is_what_plain_peft_says(made: tuple[ServedProbe, Path], llama_base: Path) -> None:
    record, folder = made
    assert (record.prompts_digest, record.dtype, record.quantized) == (PROMPTS_DIGEST, "float32", None)
    assert len(record.model_dump_json()) < 5_000
    tokenizer = AutoTokenizer.from_pretrained(llama_base)
    worn = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_base), folder).eval()
    assert len(record.prompts) == len(PROMPT_TEXTS)
    for prompt, text in zip(record.prompts, PROMPT_TEXTS, strict=True):
        assert prompt.tokens == tokenizer(text)["input_ids"][: len(prompt.tokens)]
        assert prompt.by_adapter.tokens == greedy(worn, prompt.tokens)
        with worn.disable_adapter():
            assert prompt.by_base.tokens == greedy(worn, prompt.tokens)
        for each in prompt.continuations:
            assert each.adapter == pytest.approx(by_hand(worn, prompt.tokens, each.tokens), abs=1e-5)
            with worn.disable_adapter():
                assert each.base == pytest.approx(by_hand(worn, prompt.tokens, each.tokens), abs=1e-5)


def test_base_in_16_bits_computes_in_float32_and_is_as_before(
    made: tuple[ServedProbe, Path], llama_base: Path, tmp_path: Path
) -> None:
    _, folder = made
    device, narrow = choose_device(), tmp_path / "narrow"
    AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.bfloat16).save_pretrained(narrow)
    tokenizer = AutoTokenizer.from_pretrained(llama_base)
    tokenizer.save_pretrained(narrow)
    records = []
    dtypes: list[DtypeName] = ["float32", "bfloat16"]
    for dtype in dtypes:
        model = load_adapter(load_base(narrow, device, quantization=None, dtype=dtype).model, folder)
        before = {name: each.clone() for name, each in model.state_dict().items()}
        records.append(served_probe(model, tokenizer, narrow, device.torch_device, quantization=None))
        after = model.state_dict()
        assert all(torch.equal(each, after[name]) and each.dtype == after[name].dtype for name, each in before.items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    wide, widened = records
    assert widened.dtype == "float32"
    for one, other in zip(wide.prompts, widened.prompts, strict=True):
        for left, right in zip(one.continuations, other.continuations, strict=True):
            assert left.tokens == right.tokens
            assert left.base == pytest.approx(right.base, abs=1e-5)
            assert left.adapter == pytest.approx(right.adapter, abs=1e-5)


def test_weights_are_narrow_again_after_an_error(llama_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.bfloat16)
    with pytest.raises(IndexError), in_float32(model):
        model(input_ids=torch.tensor([[10**6]]))
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}


def test_base_that_was_quantised_in_training_is_said(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    record = trained(llama_base, pairs, tmp_path, method="qlora")
    assert (record.quantized, record.dtype) == ("nf4", "float32")
    wide = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_base), tmp_path).eval()
    prompt = record.prompts[0]
    # Over the base as it was trained on, and not over the one that it was made of.
    assert prompt.by_adapter.adapter != pytest.approx(by_hand(wide, prompt.tokens, prompt.by_adapter.tokens), abs=1e-4)


class PeftEngine:
    """An engine made of transformers and PEFT, in some precision."""

    def __init__(self, base: Path, adapter: Path | None, dtype: Any = torch.float32, scale: float = 1.0) -> None:
        self._bare = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
        self._worn = self._bare
        if adapter is not None:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
            self._worn = PeftModel.from_pretrained(model, adapter).eval().to(dtype)
            for name, matrix in self._worn.named_parameters():
                if "lora_B" in name:
                    matrix.data = matrix.data * scale

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        return by_hand(self._bare if name is None else self._worn, prompt, continuation)


def proved(engine: PeftEngine, record: ServedProbe, dtype: DtypeName | None = None) -> ProbeVerdict:
    return asyncio.run(prove(engine, "a@v1", record, held=BaseScores(), dtype=dtype))  # type: ignore[arg-type]


class TestEngines:
    def test_right_version_passes_in_each_precision(self, made: tuple[ServedProbe, Path], llama_base: Path) -> None:
        record, folder = made
        assert proved(PeftEngine(llama_base, folder), record, "float32").outcome == "passed"
        for dtype in (torch.float16, torch.bfloat16):
            found = proved(PeftEngine(llama_base, folder, dtype), record)
            assert found.outcome == "passed", found

    def test_adapter_without_effect_fails(self, made: tuple[ServedProbe, Path], llama_base: Path) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            found = proved(PeftEngine(llama_base, None, dtype), made[0])
            assert found.outcome == "failed"
            assert "the adapter has no effect there" in found.message

    def test_other_scale_and_other_version_fail(
        self, made: tuple[ServedProbe, Path], llama_base: Path, pairs: Path, tmp_path: Path
    ) -> None:
        record, folder = made
        assert proved(PeftEngine(llama_base, folder, scale=0.9), record).outcome == "failed"
        # The same rows from another start.
        trained(llama_base, pairs, tmp_path, seed=4)
        assert proved(PeftEngine(llama_base, tmp_path), record).outcome == "failed"

    def test_other_base_fails(self, made: tuple[ServedProbe, Path], llama_base: Path, tmp_path: Path) -> None:
        record, folder = made
        found = proved(PeftEngine(tiny.save_llama(tmp_path / "other", seed=9), folder), record, "float32")
        assert found.outcome == "failed"
        assert "it is another base" in found.message

    def test_weak_adapter_is_undecidable_in_bfloat16(self, llama_base: Path, pairs: Path, tmp_path: Path) -> None:
        record = trained(llama_base, pairs, tmp_path, lr=3e-4)
        assert proved(PeftEngine(llama_base, tmp_path), record, "float32").outcome == "passed"
        for adapter in (tmp_path, None):
            found = proved(PeftEngine(llama_base, adapter, torch.bfloat16), record, "bfloat16")
            assert found.outcome == "undecidable", found
