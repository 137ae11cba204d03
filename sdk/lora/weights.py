"""How the weights of two adapters differ: norms and cosines of ΔW = s·B·A, module by module, with numpy alone.

The scale s is α/r, or α/√r with rsLoRA, where r is the module's real rank and α may come from `alpha_pattern`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sdk.errors import NotFound, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.formats.peft_unusable import changes_base
from sdk.lora.delta_norms import combined, has_product, of_experts
from sdk.lora.experts import sum_of_products
from sdk.lora.low_rank import product_norm, triangular_norm
from sdk.lora.module_scales import ModuleScales, ScalesError
from sdk.lora.tensors import Columns, Tensor, TensorFile, open_tensors, require_numpy
from sdk.schemas.lora_config import LoraConfig

#: The products compared are (rank, rank), so an unbounded rank would take unbounded memory.
_MAX_RANK = 4096
#: A squared norm beyond this can't be summed; no working adapter comes near it.
_MAX_SQUARE = 1e200

#: Parts of LoRA that are not part of s·B·A.
_LEFT_OUT = {"magnitude_vector": "DoRA's magnitudes", "B.bias": "LoRA biases"}


@dataclass(frozen=True)
class ModuleDelta:
    """What two adapters do to one module; None if it can't be computed."""

    #: The base's name for it, without PEFT's prefix.
    module: str
    #: ‖ΔW‖, the Frobenius norm; None if the adapter doesn't adapt the module, or for a reason given in a note.
    norm_a: float | None
    norm_b: float | None
    #: ⟨ΔW_a, ΔW_b⟩ / (‖ΔW_a‖ ‖ΔW_b‖); None if one is absent or zero, or the shapes differ.
    cosine: float | None
    rank_a: int | None
    rank_b: int | None


@dataclass(frozen=True)
class WeightDiff:
    """What two adapters do to their base, as far as s·B·A says."""

    #: Sorted by name.
    modules: list[ModuleDelta]
    #: Over the whole adapter, as if all ΔW were one vector.
    norm_a: float
    norm_b: float
    #: None if all of one adapter is zero.
    cosine: float | None
    #: What the numbers leave out, in sentences.
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Delta:
    """ΔW = s·out·inᵀ of one module of one adapter, in the layer's layout."""

    #: (rows of ΔW, r)
    out: Columns
    #: (columns of ΔW, r)
    into: Columns
    scale: float
    shape: tuple[int, ...]
    #: The number of experts of a stacked weight; 1 for any other.
    experts: int
    #: ‖ΔW‖²
    square: float


@dataclass(frozen=True)
class _Adapter:
    file: TensorFile
    lora: LoraConfig
    scales: ModuleScales
    #: Module to its A and B.
    pairs: dict[str, dict[str, Tensor]]
    embeddings: set[str]
    #: What else is in the file; the comparison leaves it out.
    left_out: set[str]


def compare_weights(folder_a: Path, folder_b: Path, *, lora_a: LoraConfig, lora_b: LoraConfig) -> WeightDiff:
    """Compare the ΔW = s·B·A of two pulled adapters, A being (r, in) and B (out, r), in float64.

    No ΔW of (out, in) is ever formed, since the trace is cyclic (Petersen and Pedersen, The Matrix Cookbook, eq. 16):
    ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB)∘(AAᵀ), and likewise ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂)∘(A₁A₂ᵀ), both sums over (r₁, r₂) numbers.
    An embedding's ΔW is the transpose of B·A, a convolution's is B·A with the kernel flattened: neither alters these.
    Stacked experts have one each, and ‖ΔW‖² is the sum of theirs.

    Raises NotFound without a file of weights, VerificationFailed for one that isn't an adapter's, Unavailable without numpy.
    """
    require_numpy("comparing weights", "or leave the weights out with --no-weights")
    first, second = _open(folder_a, lora_a), _open(folder_b, lora_b)
    notes = _notes(first, second)
    modules = []
    square_a = square_b = inner = 0.0
    for module in sorted(first.pairs.keys() | second.pairs.keys()):
        delta_a = _delta(first, module, "first", notes)
        delta_b = _delta(second, module, "second", notes)
        both = _inner(module, delta_a, delta_b, notes)
        square_a += delta_a.square if delta_a else 0.0
        square_b += delta_b.square if delta_b else 0.0
        inner += both or 0.0
        modules.append(
            ModuleDelta(
                module=module,
                norm_a=math.sqrt(delta_a.square) if delta_a else None,
                norm_b=math.sqrt(delta_b.square) if delta_b else None,
                cosine=_cosine(both, delta_a.square, delta_b.square) if delta_a and delta_b else None,
                rank_a=_rank(first, module, delta_a),
                rank_b=_rank(second, module, delta_b),
            )
        )
    return WeightDiff(modules, math.sqrt(square_a), math.sqrt(square_b), _cosine(inner, square_a, square_b), notes)


def _open(folder: Path, lora: LoraConfig) -> _Adapter:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise NotFound(f"{folder} has no {WEIGHTS_FILE}; pull the version again", param="folder")
    try:
        scales = ModuleScales(lora)
    except ScalesError as error:
        raise VerificationFailed(
            f"{path}: {error}; push the adapter again with: adapterctl push --expand-patterns"
        ) from error
    adapter = _Adapter(open_tensors(path), lora, scales, {}, set(), set())
    for name, tensor in adapter.file.tensors.items():
        key = lora_key(name)
        if key is None:
            adapter.left_out.add("whole tensors (modules_to_save, biases of the base, added tokens)")
        elif (other := _LEFT_OUT.get(key.part)) is not None:
            adapter.left_out.add(other)
        else:
            half = key.part.removeprefix("embedding_")
            halves = adapter.pairs.setdefault(key.module, {})
            if half in halves:
                raise VerificationFailed(f"{path} has two {half} tensors for {key.module!r}; pull the version again")
            halves[half] = tensor
            if half != key.part:
                adapter.embeddings.add(key.module)
    if not adapter.pairs:
        raise VerificationFailed(f"{path} has no LoRA weights; pull the version again")
    for module in adapter.pairs:
        _check_pair(adapter, module)
    return adapter


def _check_pair(adapter: _Adapter, module: str) -> None:
    """Raise VerificationFailed unless a module has both halves, and these have the same rank if they are matrices."""
    halves = adapter.pairs[module]
    said = f"{adapter.file.path}: {module!r}"
    if set(halves) != {"A", "B"}:
        raise VerificationFailed(f"{said} has only one of A and B; pull the version again")
    a, b = halves["A"].shape, halves["B"].shape
    matrices = len(a) == len(b) == 2
    if min(len(a), len(b)) < 2 or (a[0] != b[1] if matrices else module in adapter.embeddings):
        raise VerificationFailed(
            f"{said} has A of {_times(a)} and B of {_times(b)}, which can't be multiplied; pull the version again"
        )
    if a[0] > _MAX_RANK:
        raise VerificationFailed(
            f"{said} has the rank {a[0]}, too high to compare; leave the weights out with --no-weights"
        )


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _rank(adapter: _Adapter, module: str, delta: _Delta | None) -> int | None:
    """Return a module's rank; for stacked experts, the rank of each expert."""
    if module not in adapter.pairs:
        return None
    return adapter.pairs[module]["A"].shape[0] // (1 if delta is None else delta.experts)


def _notes(first: _Adapter, second: _Adapter) -> list[str]:
    """Say what the files contain besides s·B·A."""
    notes = [
        f"{what} of {whose} are not part of s·B·A and are not compared"
        for what, whose in _whose(first.left_out, second.left_out)
    ]
    inits = [{str(side.lora.init)} if changes_base(side.lora.init) else set() for side in (first, second)]
    notes += [
        f"the initialisation {init} of {whose} changes the base, so s·B·A is not everything that it adds"
        for init, whose in _whose(*inits)
    ]
    return notes


def _whose(first: set[str], second: set[str]) -> Iterator[tuple[str, str]]:
    for what in sorted(first | second):
        one = "the first adapter" if what in first else "the second adapter"
        yield what, "both adapters" if what in first & second else one


def _delta(adapter: _Adapter, module: str, side: Literal["first", "second"], notes: list[str]) -> _Delta | None:
    """Return ΔW of a module; None if the adapter has none, or one in another layout, which is noted."""
    if module not in adapter.pairs:
        return None
    a, b = (adapter.pairs[module][half] for half in "AB")
    rank = a.shape[0]
    if not has_product(a.shape, b.shape, embedding=False):
        notes.append(
            f"{module}: the {side} adapter's A of {_times(a.shape)} and B of {_times(b.shape)} belong to a grouped "
            "convolution and are not compared"
        )
        return None
    try:
        scale = adapter.scales.of(module, width=rank)
    except ScalesError as error:
        raise VerificationFailed(f"{adapter.file.path}: {error}; leave the weights out with --no-weights") from error
    if scale is None:
        notes.append(f"{module}: the rank of each expert of the {side} adapter is unknown, so they are not compared")
        return None
    if scale.said != scale.rank:
        notes.append(f"{module}: the {side} adapter's rank is {scale.rank}, not {scale.said} as its configuration says")
    out, into, shape = adapter.file.rows(b), adapter.file.rows(a).transposed(), (b.shape[0], *a.shape[1:])
    if module in adapter.embeddings:
        # An embedding stores its weight as (entries, dimension), the transpose of B·A.
        out, into, shape = into, out, (a.shape[1], b.shape[0])
    if scale.experts > 1:
        shape = (scale.experts, *shape)
    square = _square(adapter, module, out, into, scale.experts, scale.scale)
    return _Delta(out, into, scale.scale, shape, scale.experts, square)


def _square(adapter: _Adapter, module: str, out: Columns, into: Columns, experts: int, scale: float) -> float:
    """Return ‖s·BA‖². Raises VerificationFailed for NaN, infinity and what overflows."""
    norms = []
    for one, other in of_experts(out, into, experts):
        found = product_norm(one, other)
        norms.append(triangular_norm(one, other) if found is None else found)
    norm = combined(norms) * abs(scale)
    # A power that is out of range raises an error; a product becomes infinity.
    square = norm * norm
    if not square < _MAX_SQUARE:
        raise VerificationFailed(
            f"{adapter.file.path}: {module!r} holds NaN, infinity or numbers too large to compare; train it again"
        )
    return square


def _inner(module: str, a: _Delta | None, b: _Delta | None, notes: list[str]) -> float | None:
    """Return ⟨ΔW_a, ΔW_b⟩; None if one is absent, or if the shapes differ, which is noted."""
    if a is None or b is None:
        return None
    if a.shape != b.shape:
        notes.append(
            f"{module}: ΔW is {_times(a.shape)} in the first adapter and {_times(b.shape)} in the second, so it has no "
            "cosine and adds nothing to the cosine of the whole"
        )
        return None
    return sum_of_products(a.out.products(b.out), a.into.products(b.into), a.experts) * a.scale * b.scale


def _cosine(inner: float | None, square_a: float, square_b: float) -> float | None:
    norms = math.sqrt(square_a) * math.sqrt(square_b)
    return max(-1.0, min(1.0, inner / norms)) if inner is not None and norms else None
