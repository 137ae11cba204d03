"""Adapters to combine as plain PEFT saves them, and the ΔW that plain PEFT gives each module of one, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sdk.schemas.combination import CombineReport, CombineSpec
from support.hosts import InProcess


def save(base: Path, folder: Path, seed: int, *, dtype: str = "float32", **settings: Any) -> Path:
    """Save an adapter with plain PEFT after changing everything that it trains at random; return the folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    said = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(_model(base), LoraConfig(**said))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.1
        model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def deltas(base: Path, folder: Path) -> dict[str, Any]:
    """Return ΔW by module, and s·bias of B by its name, as PEFT has them after loading an adapter."""
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(_model(base, torch.float64), folder, autocast_adapter_dtype=False)
    assert not [str(one.message) for one in caught if "missing" in str(one.message) or "unexpected" in str(one.message)]
    found = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or "default" not in {*layer.lora_A, *layer.lora_embedding_A}:
            continue
        plain = name.removeprefix("base_model.model.")
        with torch.no_grad():
            found[plain] = layer.get_delta_weight("default").detach().clone()
            if "default" in layer.lora_B and (bias := layer.lora_B["default"].bias) is not None:
                found[f"{plain} bias"] = bias.detach() * layer.scaling["default"]
    return found


def weighted(parts: Sequence[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """Return Σ wᵢ·ΔWᵢ by module, dense."""
    names = {name for _, part in parts for name in part}
    return {name: sum(weight * part[name] for weight, part in parts if name in part) for name in names}


def furthest(found: dict[str, Any], said: dict[str, Any]) -> float:
    """Return the largest relative distance between modules; both must have the same ones."""
    assert found.keys() == said.keys()
    return max(float((found[name] - said[name]).norm() / said[name].norm().clamp(min=1e-300)) for name in said)


def combined(parents: Sequence[tuple[Path, float]], out: Path, **spec: Any) -> CombineReport:
    """Carry out a combination in this process."""
    from workers.pipelines.combining.combine import carry_out
    from workers.pipelines.orders import CombineOrder, ParentFolder

    given = [ParentFolder(label=folder.name, folder=folder, weight=weight) for folder, weight in parents]
    out.mkdir()
    return carry_out(CombineOrder(parents=given, spec=CombineSpec(**spec)), InProcess(out))


@cache
def _loaded(base: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def _model(base: Path, dtype: Any = None) -> Any:
    """Return a fresh model: PEFT changes the one that it is given."""
    import copy

    return copy.deepcopy(_loaded(base, dtype))
