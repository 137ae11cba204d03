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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sdk.errors import NotFound, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE, base_parameter, lora_key, unwrapped, variant_setting
from sdk.lora.experts import MAX_EXPERTS
from sdk.lora.low_rank import product_norm, triangular_norm
from sdk.lora.module_scales import ModuleScale, ModuleScales, ScalesError
from sdk.lora.tensors import Columns, Tensor, TensorFile, open_tensors
from sdk.schemas.lora_config import LoraConfig

#: A rank beyond this would take unbounded memory; for stacked experts, the rank of each expert.
MAX_RANK = 2048
#: The relative difference allowed between two norms of the same bytes: both are right to 1e-9.
TOLERANCE = 1e-6
#: Settings with which the layer does not add B·A itself.
_OTHER_PRODUCTS = ("use_bdlora", "use_qalora", "monteclora_config")

Shape = tuple[int, ...]


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
    file = open_tensors(path)
    modules, unmeasured = {}, {}
    try:
        scales = ModuleScales(lora)
        pairs = _pairs(file)
        for module in sorted(pairs):
            found = _module_norm(file, module, pairs[module], scales, lora)
            if isinstance(found, str):
                unmeasured[module] = found
            else:
                modules[module] = found
    except ScalesError as error:
        raise VerificationFailed(f"{path}: {error}; push the adapter again with --expand-patterns") from error
    keys = map(lora_key, file.tensors)
    biased = sorted(key.module for key in keys if key is not None and key.part == "B.bias")
    return DeltaNorms(modules, unmeasured, replaced_by(file.tensors), biased)


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


def has_product(a: Shape, b: Shape, *, embedding: bool) -> bool:
    """Whether A and B are multiplied as they are: not for a convolution with grouped channels, or whose B has a kernel."""
    if embedding:
        return len(a) == len(b) == 2 and a[0] == b[1]
    # PEFT gives a convolution's B a kernel of ones.
    return len(a) == len(b) >= 2 and a[0] == b[1] and set(b[2:]) <= {1}


def split(columns: Columns, experts: int, *, by_rank: bool) -> Iterator[Columns]:
    """Yield the columns of each expert: B (out, r·experts) is ordered rank by rank, Aᵀ (in, experts·r) expert by expert."""
    if experts == 1:
        yield columns
        return
    rank = columns.raw.shape[1] // experts
    for expert in range(experts):
        own = slice(expert, None, experts) if by_rank else slice(expert * rank, (expert + 1) * rank)
        yield columns.columns(own)


def of_experts(out: Columns, into: Columns, experts: int) -> Iterator[tuple[Columns, Columns]]:
    """Yield B (out, r) and Aᵀ (in, r) of each expert."""
    return zip(split(out, experts, by_rank=True), split(into, experts, by_rank=False), strict=True)


def combined(norms: list[float]) -> float:
    """Return the norm of several matrices side by side."""
    return norms[0] if len(norms) == 1 else math.hypot(*norms)


def other_product(lora: LoraConfig) -> str | None:
    """Return the setting of a record that makes a layer add something other than s·B·A; None if there is none."""
    return next((name for name in _OTHER_PRODUCTS if any(key.partition(".")[0] == name for key in lora.other)), None)


def _pairs(file: TensorFile) -> dict[str, dict[str, Tensor]]:
    """Return A and B by module, with their part's name. Raises VerificationFailed if a half is missing or there twice."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in file.tensors.items():
        key = lora_key(name)
        if key is not None and key.part in ("A", "B", "embedding_A", "embedding_B"):
            halves = pairs.setdefault(key.module, {})
            if key.part in halves:
                raise VerificationFailed(f"{file.path} has {key.part} of {key.module!r} twice; pull the version again")
            halves[key.part] = tensor
        elif key is None and base_parameter(name) is None:
            raise VerificationFailed(f"{file.path}: {name!r} is not a tensor of an adapter; save it again with PEFT")
    if not pairs:
        raise VerificationFailed(f"{file.path} has no LoRA weights; save the adapter again from the trained model")
    for module, halves in pairs.items():
        if set(halves) not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
            raise VerificationFailed(f"{file.path} has only one of A and B of {module!r}; pull the version again")
    return pairs


def _module_norm(
    file: TensorFile, module: str, halves: dict[str, Tensor], scales: ModuleScales, lora: LoraConfig
) -> ModuleNorm | str:
    embedding = "embedding_A" in halves
    a, b = (halves["embedding_A" if embedding else "A"], halves["embedding_B" if embedding else "B"])
    if variant := other_product(lora):
        return f"with {variant} the layer adds something else than s·B·A"
    if not has_product(a.shape, b.shape, embedding=embedding):
        return f"A of {list(a.shape)} and B of {list(b.shape)} are no factors of one product"
    scale = scales.of(module, width=a.shape[0])
    if scale is None:
        return "the rank of each expert can't be told"
    if scale.rank > MAX_RANK:
        return f"its rank is {scale.rank}, and norms are taken up to {MAX_RANK}"
    if scale.experts > MAX_EXPERTS:
        return f"it is of {scale.experts} experts, and norms are taken up to {MAX_EXPERTS}"
    return _measured(file, module, a, b, scale)


def _measured(file: TensorFile, module: str, a: Tensor, b: Tensor, scale: ModuleScale) -> ModuleNorm:
    out, into = file.rows(b), file.rows(a).transposed()
    norms = []
    for one, other in of_experts(out, into, scale.experts):
        found = product_norm(one, other)
        norms.append(abs(scale.scale) * (triangular_norm(one, other) if found is None else found))
    if not all(map(math.isfinite, norms)):
        raise VerificationFailed(
            f"{file.path}: {module!r} holds NaN, infinity or numbers too large to measure; train it again"
        )
    experts = tuple(norms) if scale.experts > 1 else ()
    return ModuleNorm(module, combined(norms), scale.rank, scale.scale, experts)
