"""The norm of ΔW = s·B·A of every module that an adapter adapts, from its files, with numpy alone.

The registry computes these at publication from the bytes, consumers from what they pulled, and a merge is checked
against them. They are the norms of s·B·A only: DoRA's magnitudes, B's own bias and whatever replaces a part of the base
are not in them.

>>> differing({"q": 1.0, "k": 0.0, "v": None}, {"q": 1.0000001, "k": 0.0, "v": 3.0})
[]
>>> differing({"q": 1.0, "k": 0.0}, {"q": 1.1})
[NormDifference(module='k', stored=0.0, found=None), NormDifference(module='q', stored=1.0, found=1.1)]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sdk.errors import NotFound, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE, base_parameter, lora_key, unwrapped, variant_setting
from sdk.lora.adapter import AdapterError, DeltaW, LoraAdapter, NoProductError
from sdk.lora.low_rank import combined
from sdk.lora.tensors import Tensor, read_tensors
from sdk.schemas.lora_config import LoraConfig

#: A rank beyond this would take unbounded memory; for stacked experts, the rank of each expert.
MAX_RANK = 2048
#: The relative difference allowed between two norms of the same bytes: both are right to 1e-9.
TOLERANCE = 1e-6
#: Settings with which the layer does not add B·A itself.
_OTHER_PRODUCTS = ("use_bdlora", "use_qalora", "monteclora_config")


@dataclass(frozen=True)
class ModuleNorm:
    """ΔW of one module."""

    #: The adapter's name for it, without PEFT's prefix.
    module: str
    #: |s|·‖B·A‖, the Frobenius norm; for stacked experts over all of them.
    norm: float
    #: For stacked experts, the rank of each expert.
    rank: int
    #: s.
    scale: float
    #: The norm of each expert's ΔW, in their order; empty for a module that is not stacked.
    experts: tuple[float, ...] = ()


@dataclass(frozen=True)
class DeltaNorms:
    """What an adapter adds to its base, module by module, and what else it does."""

    #: By module, sorted.
    modules: dict[str, ModuleNorm]
    #: Modules whose norm can't be computed, with the reason as a clause.
    unmeasured: dict[str, str] = field(default_factory=dict)
    #: The base's names of parameters that whole tensors replace, entirely or in some rows; sorted.
    replaced: list[str] = field(default_factory=list)
    #: Modules whose B has a bias of its own, which s·B·A leaves out.
    biased: list[str] = field(default_factory=list)

    def norms(self) -> dict[str, float | None]:
        """Return the norm of each module, None if it can't be computed, as the registry stores them."""
        found: dict[str, float | None] = {name: one.norm for name, one in self.modules.items()}
        return dict(sorted((found | dict.fromkeys(self.unmeasured)).items()))


class NormDifference(NamedTuple):
    """A module whose norm is not what was stored; None if a side has no such module."""

    module: str
    stored: float | None
    found: float | None


def delta_norms(folder: Path, lora: LoraConfig) -> DeltaNorms:
    """Return the norms of the adapter in a folder, given its LoRA record; modules are read one after the other.

    Raises NotFound without a file of weights, VerificationFailed for one that isn't an adapter's, or whose patterns
    can't be tried, and for numbers that are not finite.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise NotFound(f"{folder} has no {WEIGHTS_FILE}; pull the version again", param="folder")
    modules, unmeasured = {}, {}
    try:
        adapter = LoraAdapter(read_tensors(path).values(), lora)
        _require_loras_own(path, adapter)
        for name in sorted(adapter.modules):
            found = _module_norm(path, adapter, name)
            if isinstance(found, str):
                unmeasured[name] = found
            else:
                modules[name] = found
    except AdapterError as error:
        raise VerificationFailed(
            f"{path}: {error}; save the adapter again with PEFT, and push it with --expand-patterns"
        ) from error
    biased = sorted(name for name, module in adapter.modules.items() if "B.bias" in module.parts)
    return DeltaNorms(modules, unmeasured, replaced_by(adapter.whole), biased)


def replaced_by(names: Iterable[str]) -> list[str]:
    """Return the parameters of the base that an adapter's tensors replace, entirely or in some rows, sorted."""
    others = (base_parameter(name) for name in names if lora_key(name) is None and variant_setting(name) is None)
    return sorted({unwrapped(parameter) for parameter in others if parameter})


def differing(
    stored: Mapping[str, float | None], found: Mapping[str, float | None], *, tolerance: float = TOLERANCE
) -> list[NormDifference]:
    """Return the modules whose norms differ by more than `tolerance`, relatively, sorted; modules without a norm on
    either side don't count.

    A norm of 0 equals only 0.
    """
    wrong = []
    for module in sorted(stored.keys() | found.keys()):
        one, other = stored.get(module), found.get(module)
        if module in stored and module in found and (one is None or other is None):
            continue
        if one is None or other is None or not abs(one - other) <= tolerance * min(abs(one), abs(other)):
            wrong.append(NormDifference(module, one, other))
    return wrong


def other_product(lora: LoraConfig) -> str | None:
    """Return the setting of a record that makes a layer add something other than s·B·A; None if there is none."""
    return next((name for name in _OTHER_PRODUCTS if any(key.partition(".")[0] == name for key in lora.other)), None)


def _require_loras_own(path: Path, adapter: LoraAdapter[Tensor]) -> None:
    """Raise VerificationFailed for a tensor that PEFT doesn't write, and without any of LoRA's own; AdapterError for half
    a module.
    """
    foreign = next((name for name in adapter.whole if base_parameter(name) is None), None)
    if foreign is not None:
        raise VerificationFailed(f"{path}: {foreign!r} is not a tensor of an adapter; save it again with PEFT")
    if not adapter.modules:
        raise VerificationFailed(f"{path} has no LoRA weights; save the adapter again from the trained model")
    for module in adapter.modules.values():
        module.pair()


def _module_norm(path: Path, adapter: LoraAdapter[Tensor], module: str) -> ModuleNorm | str:
    if variant := other_product(adapter.lora):
        return f"with {variant} the layer adds something else than s·B·A"
    try:
        product = adapter.product(module)
    except NoProductError as error:
        return f"it {error.reason}"
    if product.scale.rank > MAX_RANK:
        return f"its rank is {product.scale.rank}, and norms are taken up to {MAX_RANK}"
    return _measured(path, module, product)


def _measured(path: Path, module: str, product: DeltaW[Tensor]) -> ModuleNorm:
    scale = product.scale
    norms = [abs(scale.scale) * norm for norm in product.norms()]
    if not all(map(math.isfinite, norms)):
        raise VerificationFailed(
            f"{path}: {module!r} holds NaN, infinity or numbers too large to measure; train it again"
        )
    experts = tuple(norms) if scale.experts > 1 else ()
    return ModuleNorm(module, combined(norms), scale.rank, scale.scale, experts)
