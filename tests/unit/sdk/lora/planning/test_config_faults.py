"""Configs that no model can be of are refused in one clause, and those of real families are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from sdk.errors import InvalidBase
from sdk.examining.planning import plan_training
from sdk.formats.canonical_json import canonical_json
from sdk.lora.planning import tables as configs
from sdk.lora.planning.config_faults import config_fault
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base

FAULTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (configs.MIXTRAL_8X7B, {"num_experts_per_tok": 9}, "says num_experts_per_tok = 9 of 8 experts, more"),
    (
        configs.QWEN3_30B_A3B,
        {"num_experts": 4, "num_experts_per_tok": None},
        "says no num_experts_per_tok, and the family's own of 8 is more than the 4 experts",
    ),
    (
        configs.LLAMA_2_7B,
        {"num_key_value_heads": 7},
        "says num_key_value_heads = 7 for 32 heads, which does not divide",
    ),
    (configs.LLAMA_2_7B, {"head_dim": 65}, "says head_dim = 65, an odd number"),
    (configs.LLAMA_2_7B, {"hidden_size": 32 * 65}, "says hidden_size = 2080 for 32 heads, an odd width of 65"),
    (configs.LLAMA_2_7B, {"max_position_embeddings": -5}, "max_position_embeddings = -5, which is not a whole number"),
    (configs.LLAMA_2_7B, {"max_position_embeddings": "512"}, "max_position_embeddings = '512', which is not a whole"),
    (configs.LLAMA_2_7B, {"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false', which is neither true nor"),
    (
        configs.LLAMA_2_7B,
        {"torch_dtype": "int3"},
        "torch_dtype = 'int3', which is not a type of floating-point numbers",
    ),
    (configs.LLAMA_2_7B, {"dtype": "int3"}, "dtype = 'int3', which is not a type"),
]


@pytest.mark.parametrize(("base", "changed", "said"), FAULTS)
def test_what_no_model_is_like_is_refused_by_a_plan_and_as_a_base(
    base: dict[str, Any], changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert config_fault(base) is None
    assert said in (config_fault(base | changed) or "")
    assert said in (config_fault({"model_type": "strange", "text_config": base | changed}) or "")
    (tmp_path / "config.json").write_bytes(canonical_json(base | changed))
    for refusing in (
        lambda: plan_training(None, tmp_path / "config.json"),
        lambda: plan_training(None, tmp_path, as_given=True),
        lambda: scan_base(tmp_path, cache=Cache(tmp_path / "cache")),
    ):
        with pytest.raises(InvalidBase) as caught:
            refusing()
        assert said in caught.value.message
        assert caught.value.message.count(". ") == 0


@pytest.mark.parametrize(
    "config",
    [
        {
            "model_type": "falcon",
            "num_attention_heads": 71,
            "hidden_size": 4544,
            "multi_query": True,
            "num_kv_heads": 71,
        },
        {"model_type": "gpt2", "n_head": 12, "n_embd": 780, "n_positions": 1024},
        {
            "model_type": "gemma",
            "hidden_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
        },
        {"model_type": "gpt_neox", "hidden_size": 130, "num_attention_heads": 2, "rotary_pct": 0.25},
        {
            "model_type": "deepseek_v3",
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "qk_rope_head_dim": 64,
            "torch_dtype": "bfloat16",
        },
        {"model_type": "granitemoehybrid", "num_local_experts": 0, "num_experts_per_tok": 0},
        {"model_type": "phi3", "head_dim": 127, "partial_rotary_factor": 0.75},
        {"model_type": "llama", "dtype": {"text_config": "bfloat16"}, "max_position_embeddings": None},
        {"model_type": "llama", "tie_word_embeddings": None, "torch_dtype": "float8_e4m3fn"},
        {"model_type": "llama", "num_attention_heads": None, "num_key_value_heads": [8, 4], "head_dim": "64"},
    ],
)
def test_what_real_bases_say_is_taken(config: dict[str, Any]) -> None:
    assert config_fault(config) is None


def test_the_own_configs_of_all_families_are_taken() -> None:
    """As transformers writes what its authors took for granted."""
    found = {}
    for kind in CONFIG_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(kind).to_dict()
        except Exception:  # noqa: BLE001 - some need a library, or parts
            continue
        found[kind] = config_fault(config)
    assert len(found) > 200
    assert {kind: fault for kind, fault in found.items() if fault} == {}
