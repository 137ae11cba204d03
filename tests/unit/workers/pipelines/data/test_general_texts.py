"""General texts that are read together: each scores as alone, padding counts for nothing, and few logits are there at a time."""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.architectures import save_model
from support.fixtures import Limits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from sdk.lora.planning.forecast import GENERAL_PASS
from workers.pipelines.data import divergence
from workers.pipelines.data.fixed_texts import GENERAL_TEXTS, MOST_TOKENS
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.scoring import forgetting

#: With what of its config is changed: of Gemma 3, no token sees more than four.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3": {"sliding_window": 4},
    "gpt2": {},
    "mixtral": {},
}


def changed(base: Path, **config: Any) -> Path:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return base


def adapted(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    # Where an adapter begins at random it changes much.
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        # Of how GPT-2's weights lie, and of experts, which "all-linear" leaves out.
        warnings.simplefilter("ignore")
        return get_peft_model(model, lora).eval()


def alone(model: Any, texts: Sequence[Sequence[int]]) -> Iterator[tuple[Any, Any]]:
    """Yield what a model says of each text by itself in float64, (tokens, vocabulary), and the tokens that it should."""
    for ids in texts:
        with torch.no_grad():
            yield model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1), torch.tensor(ids[1:])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_each_text_scores_as_it_does_alone(family: str, tmp_path: Path, limits: Limits) -> None:
    base = changed(save_model(tmp_path, family), **FAMILIES[family])
    # Of many lengths, so that most are padded.
    limits(forgetting, GENERAL_TEXTS=[text[: 3 + at] for at, text in enumerate(GENERAL_TEXTS)])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), load_tokenizer(base)
    bare = forgetting.read_bare(model, tokenizer, base)
    texts = [example.input_ids for example in bare.examples]
    assert len({len(ids) for ids in texts}) > 4
    before = list(alone(model, texts))
    # Another token in their place changes nothing.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(texts[0][0])
    padded = forgetting.read_bare(model, tokenizer, base)

    worn = adapted(model)
    found = forgetting.general_scores(bare, worn)
    after = list(alone(worn, texts))
    tokens = sum(len(ids) - 1 for ids in texts)
    assert found["general_tokens"] == tokens
    for name, said in (("general_loss_base", before), ("general_loss", after)):
        loss = -sum(float(p.gather(-1, ids[:, None]).sum()) for p, ids in said) / tokens
        assert found[name] == pytest.approx(loss, rel=1e-5)
    kl = sum(float((p.exp() * (p - q)).sum()) for (p, _), (q, _) in zip(before, after, strict=True)) / tokens
    assert found["general_kl"] == pytest.approx(kl, rel=1e-5)
    assert kl > 0.01
    again = forgetting.general_scores(padded, worn)
    assert {**again, "general_s": 0} == {**found, "general_s": 0}

    for name, parameter in worn.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    nothing = forgetting.general_scores(bare, worn)
    assert nothing["general_kl"] == 0.0
    assert nothing["general_loss"] == nothing["general_loss_base"] == found["general_loss_base"]


class Held(TorchDispatchMode):  # type: ignore[misc]  # torch's types are not followed
    """Keeps the most bytes that tensors took at a time, of those with logits and what is computed of them."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0
        #: Place of a tensor's memory → its bytes, and how many tensors are there.
        self._held: dict[int, tuple[int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each operation."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
                memory = tensor.untyped_storage()
                _, count = self._held.get(memory.data_ptr(), (0, 0))
                self._held[memory.data_ptr()] = memory.nbytes(), count + 1
                weakref.finalize(tensor, self._freed, memory.data_ptr())
        self.most = max(self.most, sum(size for size, _ in self._held.values()))
        return made

    def _freed(self, place: int) -> None:
        size, count = self._held.pop(place)
        if count > 1:
            self._held[place] = size, count - 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_passes_read_all_with_the_logits_that_a_forecast_counts(dtype: Any, tmp_path: Path, limits: Limits) -> None:
    vocabulary = 5_000
    base = tiny.save_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    # As with a wide vocabulary, of which a piece is no more than a row.
    limits(divergence, _TOGETHER=vocabulary)
    passes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda module, args, given: passes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    with Held(vocabulary) as bare_held:
        bare = forgetting.read_bare(model, load_tokenizer(base), base)
    worn = adapted(model)
    with Held(vocabulary) as held:
        assert forgetting.general_scores(bare, worn)["general_kl"] > 0
    assert len(GENERAL_TEXTS) == 32
    # Nothing is predicted by the last token.
    assert passes == 4 * [(16, MOST_TOKENS - 1)]
    assert GENERAL_PASS == (16, MOST_TOKENS)
    # The bare and the adapted logits of a pass, and a few rows of what is computed of them.
    for most in (bare_held.most, held.most):
        assert dtype.itemsize * 176 * vocabulary <= most <= 2 * dtype.itemsize * 176 * vocabulary + 60 * vocabulary
    assert held.most <= 8 * 16 * MOST_TOKENS * vocabulary
