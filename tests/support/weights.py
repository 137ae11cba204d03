"""Safetensors files by hand, and admission over them: inspected, kept as JSON as the registry does, then judged."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts, inspect_config, inspect_weights
from registry.artifacts.admission.rules import judge
from registry.artifacts.long_facts import holding_facts, take_turn
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.schemas.catalog import BaseRegistration
from sdk.schemas.lora_config import LoraConfig
from support.adapters import BASE_TENSORS, lora_config, lora_tensors

PREFIX = "base_model.model.model.layers.0.self_attn"
QA, QB = f"{PREFIX}.q_proj.lora_A.weight", f"{PREFIX}.q_proj.lora_B.weight"
VA, VB = f"{PREFIX}.v_proj.lora_A.weight", f"{PREFIX}.v_proj.lora_B.weight"
#: The record that belongs to `lora_tensors` and `lora_config`.
LORA = LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=["q_proj", "v_proj"])

Tensors = dict[str, np.ndarray]


def changed(change: Callable[[Tensors], object]) -> bytes:
    """Return the adapter's weights after `change`."""
    tensors = lora_tensors()
    change(tensors)
    return save(tensors)


def packed(header: Any, data: bytes = b"", *, encoding: str = "utf-8") -> bytes:
    """Return a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode(encoding)
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32", **more: Any) -> dict[str, Any]:
    """Return how a header describes a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def weight_facts(raw: bytes, lora: LoraConfig = LORA) -> WeightFacts:
    """Inspect weights, and return the facts after their way through a JSON column."""
    with holding_facts():
        take_turn(len(raw))
        facts = inspect_weights(io.BytesIO(raw), size_bytes=len(raw), lora=lora)
    kept = WeightFacts.from_json(json.loads(json.dumps(facts.to_json(), allow_nan=False)))
    assert kept == facts
    return facts


def config_facts(raw: bytes) -> ConfigFacts:
    """Inspect a config, and return the facts after their way through a JSON column."""
    facts = inspect_config(io.BytesIO(raw))
    kept = ConfigFacts.from_json(json.loads(json.dumps(facts.to_json(), allow_nan=False)))
    assert kept == facts
    return facts


def agreeing(lora: LoraConfig, **said: Any) -> ConfigFacts:
    """Return the facts of a config that says what the record says, and `said`."""
    config = lora_config(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        rank_pattern=lora.rank_pattern,
        alpha_pattern=lora.alpha_pattern,
        modules_to_save=lora.modules_to_save,
        target_parameters=lora.target_parameters,
        bias=lora.bias,
        use_dora=lora.use_dora,
        lora_bias=lora.lora_bias,
        **said,
    )
    return config_facts(json.dumps(config).encode())


def check(
    raw: bytes,
    lora: LoraConfig = LORA,
    base: dict[str, list[int]] | None = None,
    base_config: dict[str, Any] | None = None,
    **said: Any,
) -> list[str]:
    """Judge weights with a config that agrees with the record, over the described base if none is given.

    Return the warnings.
    """
    return judge(
        weight_facts(raw, lora),
        agreeing(lora, **said),
        lora=lora,
        base_tensors=BASE_TENSORS if base is None else base,
        base_config=base_config or {},
    )


def admitted(adapter: Path, base: BaseRegistration | Path, lora: LoraConfig, *, tokenizer: bool = False) -> list[str]:
    """Judge an adapter's folder by its base, as it is registered or in its folder; return the warnings."""
    if isinstance(base, Path):
        base = scan_base(base, cache=Cache(adapter.parent / "admission-cache")).registration
    return judge(
        weight_facts((adapter / WEIGHTS_FILE).read_bytes(), lora),
        config_facts((adapter / CONFIG_FILE).read_bytes()),
        lora=lora,
        base_tensors=base.tensors,
        base_config=base.config,
        tokenizer=tokenizer,
    )


def check_config(lora: LoraConfig = LORA, **config: Any) -> list[str]:
    """Judge a config with weights that fit the record; return the warnings."""
    facts = config_facts(json.dumps(lora_config(**config)).encode())
    return judge(
        weight_facts(changed(lambda tensors: None)), facts, lora=lora, base_tensors=BASE_TENSORS, base_config={}
    )
