"""Rows of tokens that the base has none for: taken with a tokenizer, and refused where one would be missing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from support.adapters import BASE_TENSORS, lora_tensors
from support.weights import LORA, agreeing, weight_facts

from registry.artifacts.admission.rules import judge
from registry.errors import Verification

ROWS = "base_model.model.{}.token_adapter.trainable_tokens_delta"
#: Of 32 tokens.
EMBEDDINGS = {"model.embed_tokens.weight": [32, 6], "lm_head.weight": [32, 6]}
HEAD = {"embed_tokens": [3, 32, 33], "lm_head": [32, 33]}


@pytest.mark.parametrize(
    ("said", "tied", "tokenizer", "refused"),
    [
        ([3, 32, 33], True, True, None),
        (HEAD, False, True, None),
        # Rows that the base has need nothing.
        ([3, 31], False, False, None),
        ([3, 32, 33], True, False, "the token 33, which is beyond the base's vocabulary"),
        ([3, 33], True, True, "of a larger vocabulary than the base's 32, and lacks the row 32;"),
        ([3, 32, 33], False, True, "and lacks lm_head;"),
        ({"embed_tokens": [32, 33], "lm_head": [33]}, False, True, "and lacks the row 32;"),
        ({"lm_head": [32, 33]}, False, True, "and lacks"),
    ],
)
def test_tokens_beyond_the_vocabulary(said: Any, tied: bool, tokenizer: bool, refused: str | None) -> None:
    base = {**BASE_TENSORS, **EMBEDDINGS}
    if tied:
        del base["lm_head.weight"]
    lists = said if isinstance(said, dict) else {"embed_tokens": said}
    names = {"embed_tokens": ROWS.format("model.embed_tokens"), "lm_head": ROWS.format("lm_head")}
    rows = {names[module]: np.ones((len(tokens), 6), "f4") for module, tokens in lists.items()}
    lora = LORA.model_copy(update={"trainable_token_indices": said})
    facts = weight_facts(save({**lora_tensors(), **rows}), lora)
    with nullcontext() if refused is None else pytest.raises(Verification, match=refused):
        judge(facts, agreeing(lora), lora=lora, base_tensors=base, base_config={}, tokenizer=tokenizer)
