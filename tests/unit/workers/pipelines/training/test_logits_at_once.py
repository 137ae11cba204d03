"""No look of a training at its model has logits of whole rows: with wide vocabularies those would be what runs out of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.fixtures import Limits
from support.trainings import run_training, save_jsonl
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from sdk.schemas.probe import MOST_TOKENS
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data import divergence
from workers.pipelines.training import adapting, choosing

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CHUNK = 64
ROWS = {
    "prompts": [{"prompt": "Say it. " * 8, "completion": f"{word} " * 60} for word in ("one", "two", "three", "four")],
    "text": [{"text": f"{word} and so on. " * 50} for word in ("one", "two", "three", "four")],
}


class Watching(TorchDispatchMode):  # type: ignore[misc]  # torch's types are not followed
    """Keeps the most tokens whose logits are in one tensor: in any type, and in float32."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.most, self.most_wide = vocabulary, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each operation."""
        made = func(*args, **(kwargs or {}))
        if func.is_view:
            # It has no memory of its own: of few rows a product takes the head's weights once for each.
            return made
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
                tokens = tensor.numel() // self.vocabulary
                self.most = max(self.most, tokens)
                if tensor.dtype == torch.float32:
                    self.most_wide = max(self.most_wide, tokens)
        return made


@pytest.mark.parametrize("kind", ROWS)
def test_no_more_logits_are_there_than_of_a_chunk_or_of_a_fixed_text(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    base = tiny.save_llama(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    vocabulary = json.loads((base / "config.json").read_text())["vocab_size"]
    data = save_jsonl(tmp_path / "rows.jsonl", ROWS[kind])
    monkeypatch.setattr(choosing, "chunk_tokens", lambda *_: CHUNK)
    # As with a wide vocabulary.
    limits(divergence, _TOGETHER=CHUNK * vocabulary)
    spec = TrainingSpec(method="lora", rank=2, max_steps=1, batch_size=2, grad_accum=1, max_length=200)
    with Watching(vocabulary) as seen:
        run_training(base, data, tmp_path / "out", eval_data=data, spec=spec)
    assert 2 * adapting.MOST_TOKENS <= seen.most <= MOST_TOKENS
    assert seen.most_wide <= CHUNK
