"""An adapter as a plain LoRA, with one rank and one α for every module: what it becomes, or why it can't be one.

Engines differ in their support for patterns, rsLoRA and DoRA; all of them read A, B, one r and one α. A module of a
lower rank is padded with zeros, and the factor between its scale and α/r is multiplied into B: both are exact. A module
of a higher rank is cut to the nearest matrix of that rank, and a DoRA has no rank at all: its ΔW = m/‖W + s·B·A‖ ∘ (W +
s·B·A) − W needs the base, and is cut as well.

>>> plain = LoraConfig(rank=8, alpha=16.0, dropout=0.0, target_modules=["q_proj"])
>>> refused(plain), refused(plain.model_copy(update={"bias": "all"}))
(None, "has trained biases of the base (bias 'all'), which it holds whole")
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.formats.peft_unusable import unusable
from sdk.lora.adapter import AdapterError, DeltaW, LoraAdapter
from sdk.lora.adapter_config import harmless, lora_of, read_adapter_config
from sdk.lora.combining import OF_THE_TRAINING
from sdk.lora.module_scales import ModuleScales, ScalesError
from sdk.lora.tensors import Tensor, read_tensors
from sdk.schemas.lora_config import LoraConfig

#: More than the rows of any base that a LoRA has been seen on: a higher rank is a mistake.
MAX_RANK = 8192
_MERGE = "merge it instead: adapterctl merge REF -o DIR"
#: How far a scale may be from α/r and still count as equal: a few roundings in float64.
_SAME_SCALE = 1e-12
#: Larger scales are mistakes, and the numbers that they make would be too.
_MOST_SCALE = 1e30


@dataclass(frozen=True)
class PlainPlan:
    """A plain LoRA to be made of an adapter."""

    #: The adapter's configuration, and the plain LoRA's.
    lora: LoraConfig
    config: dict[str, Any]
    products: dict[str, DeltaW[Tensor]]
    #: The types of its matrices.
    dtypes: set[str]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """α/r of the plain LoRA."""
        return self.alpha / self.rank

    def factor(self, module: DeltaW[Tensor]) -> float:
        """Return the factor for B that gives the module the common scale; 1.0 if it has that already."""
        found = module.scale.scale / self.scale
        return 1.0 if math.isclose(found, 1.0, rel_tol=_SAME_SCALE) else found

    def is_exact(self, module: DeltaW[Tensor]) -> bool:
        """Whether the rank has room for a module's whole ΔW, whatever its numbers are."""
        return not self.lora.use_dora and module.scale.rank <= self.rank


def refused(lora: LoraConfig) -> str | None:
    """Say, in a clause, what an adapter has that no plain LoRA can hold; None if there is nothing like that."""
    if lora.modules_to_save:
        return f"replaces {', '.join(lora.modules_to_save[:5])} whole (modules_to_save)"
    if lora.bias != "none":
        return f"has trained biases of the base (bias {lora.bias!r}), which it holds whole"
    if lora.lora_bias:
        return "has biases of B (lora_bias)"
    if lora.trainable_token_indices:
        return "has trained single tokens (trainable_token_indices)"
    for key in lora.other:
        if (setting := key.partition(".")[0]) not in OF_THE_TRAINING:
            return f"has {setting}, with which a layer adds something else than s·B·A"
    return None


def plan_plain(folder: Path, rank: int | None = None) -> PlainPlan:
    """Return the plain LoRA of a given rank that an adapter becomes, from its configuration and the header of its weights.

    Raises InvalidInput, which names what a plain LoRA can't hold, NotFound, VerificationFailed.
    """
    if rank is not None and not 1 <= rank <= MAX_RANK:
        raise InvalidInput(f"the rank is {rank}; give one from 1 to {MAX_RANK}", param="rank")
    config = read_adapter_config(folder)
    if config.get("peft_type") != "LORA":
        raise _no_room(f"is of the type {str(config.get('peft_type'))[:40]!a}", "export adapters of the type LORA")
    if said := unusable(config):
        raise InvalidInput(f"the adapter can't be exported, for {said}", param="target")
    lora = lora_of(config)
    if said := refused(lora):
        raise _no_room(said, _MERGE)
    if lora.use_dora and rank is None:
        raise InvalidInput(
            "the adapter is a DoRA, whose ΔW has no low rank; say which one it is to be truncated to with --rank, or "
            + _MERGE,
            param="rank",
        )
    adapter, products = _read(folder, lora)
    most = max(module.scale.rank for module in products.values())
    rank = rank or most
    alpha = float(rank) if lora.use_dora else _common_scale(products) * rank
    plain = _config(config, rank, alpha)
    _require_says(lora_of(plain), products, rank, alpha / rank)
    return PlainPlan(lora, plain, products, adapter.dtypes, rank, alpha)


def _read(folder: Path, lora: LoraConfig) -> tuple[LoraAdapter[Tensor], dict[str, DeltaW[Tensor]]]:
    try:
        adapter = LoraAdapter(read_tensors(folder / WEIGHTS_FILE).values(), lora)
        products = {name: adapter.product(name) for name in sorted(adapter.modules)}
    except AdapterError as error:
        raise InvalidInput(f"the adapter can't be a plain LoRA, for {error}; {_MERGE}", param="target") from error
    parts = (module.parts.get("magnitude_vector") for module in adapter.modules.values())
    magnitudes = [] if lora.use_dora else [tensor.name for tensor in parts if tensor is not None]
    if whole := sorted([*adapter.whole, *magnitudes]):
        raise _no_room(
            f"holds {whole[0][:200]!a} whole",
            f"{_MERGE}; or save it again with save_embedding_layers=False where that was not trained",
        )
    for name, module in products.items():
        if not abs(module.scale.scale) <= _MOST_SCALE:
            raise InvalidInput(
                f"{name} of the adapter has the scale {module.scale.scale:g}, beyond what float32 holds; train it again",
                param="target",
            )
    if not products:
        raise InvalidInput(f"{folder / WEIGHTS_FILE} has no A and B; give the folder of an adapter", param="target")
    return adapter, products


def _common_scale(products: dict[str, DeltaW[Tensor]]) -> float:
    """Return the scale that most modules have: their B stays as it is."""
    counted = Counter(module.scale.scale for module in products.values() if module.scale.scale)
    return max(counted, key=lambda scale: (counted[scale], scale), default=1.0)


def _config(config: dict[str, Any], rank: int, alpha: float) -> dict[str, Any]:
    """Return the plain LoRA's configuration; the keys that choose the modules stay as they are."""
    kept = {
        key: value for key, value in harmless(config).items() if key == "exclude_modules" or key not in OF_THE_TRAINING
    }
    return kept | {
        "r": rank,
        # vLLM wants alpha to be an integer whenever its value is one.
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _require_says(lora: LoraConfig, products: dict[str, DeltaW[Tensor]], rank: int, scale: float) -> None:
    """Raise InvalidInput unless a configuration gives each module this rank and scale, and its number of experts."""
    try:
        scales = ModuleScales(lora)
        for name, module in products.items():
            experts = module.layout.experts
            found = scales.of(name, width=rank * experts)
            if found is None or (found.rank, found.experts) != (rank, experts) or found.scale != scale:
                raise InvalidInput(
                    f"{name} can't have the rank {rank} in a plain LoRA, for its experts could not be told apart; {_MERGE}",
                    param="rank",
                )
    except ScalesError as error:
        raise InvalidInput(f"the adapter can't be a plain LoRA, for {error}; {_MERGE}", param="target") from error


def _no_room(what: str, advice: str) -> InvalidInput:
    return InvalidInput(f"the adapter {what}, which a plain LoRA can't hold; {advice}", param="target")
