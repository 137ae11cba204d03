"""The head of a classification, held against the width that its base hands over."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save
from support.weights import weight_facts

from registry.artifacts.admission.expected_shapes import BaseShapes
from registry.artifacts.admission.heads import judge_head
from registry.errors import Verification

BASE = BaseShapes({"model.decoder.layers.0.self_attn.q_proj.weight": [8, 8]})


def judge(width: int, config: dict[str, int]) -> None:
    stored = save({"base_model.model.score.weight": np.ones((3, width), np.float32)})
    judge_head(weight_facts(stored).tensors(), BASE, config, labels=3)


@pytest.mark.parametrize(
    ("width", "config"),
    [(8, {"hidden_size": 8}), (4, {"hidden_size": 8, "word_embed_proj_dim": 4}), (8, {"n_embd": 8}), (5, {})],
)
def test_a_head_is_as_wide_as_what_it_is_given(width: int, config: dict[str, int]) -> None:
    judge(width, config)


@pytest.mark.parametrize("config", [{"hidden_size": 8}, {"hidden_size": 8, "word_embed_proj_dim": 4}])
def test_another_width_belongs_to_another_base(config: dict[str, int]) -> None:
    with pytest.raises(Verification, match="fits no head over a base that is 8 wide"):
        judge(5, config)
