"""How the weights of two adapters differ: norms and cosines of ΔW = s·B·A, module by module, with numpy alone.

The scale s is α/r, or α/√r with rsLoRA, where r is the module's real rank and α may come from `alpha_pattern`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdk.errors import NotFound, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.formats.peft_unusable import changes_base
from sdk.lora.adapter import AdapterError, DeltaW, LoraAdapter, NoProductError, times
from sdk.lora.experts import sum_of_products
from sdk.lora.low_rank import combined
from sdk.lora.tensors import Columns, Tensor, read_tensors, require_numpy
from sdk.schemas.diff import ModuleDiff, WeightsDiff
from sdk.schemas.lora_config import LoraConfig

#: The products compared are (rank, rank), so an unbounded rank would take unbounded memory.
_MAX_RANK = 4096
#: A squared norm beyond this can't be summed; no working adapter comes near it.
_MAX_SQUARE = 1e200

#: Parts of LoRA that are not part of s·B·A.
_LEFT_OUT = {"magnitude_vector": "DoRA's magnitudes", "B.bias": "LoRA biases"}
_ADVICE = "push the adapter again with --expand-patterns, or leave the weights out with --no-weights"
_WHOLE = "whole tensors (modules_to_save, biases of the base, added tokens)"


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
class _Side:
    """One of the two adapters."""

    path: Path
    called: Literal["first", "second"]
    adapter: LoraAdapter[Tensor]

    def left_out(self) -> set[str]:
        """Say what else is in the file; the comparison leaves it out."""
        parts = {part for module in self.adapter.modules.values() for part in module.parts}
        found = {said for part, said in _LEFT_OUT.items() if part in parts}
        return found | ({_WHOLE} if self.adapter.whole else set())


def compare_weights(folder_a: Path, folder_b: Path, *, lora_a: LoraConfig, lora_b: LoraConfig) -> WeightsDiff:
    """Compare the ΔW = s·B·A of two pulled adapters, A being (r, in) and B (out, r), in float64.

    No ΔW of (out, in) is ever formed, since the trace is cyclic (Petersen and Pedersen, The Matrix Cookbook, eq. 16):
    ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB)∘(AAᵀ), and likewise ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂)∘(A₁A₂ᵀ), both sums over (r₁, r₂) numbers.
    An embedding's ΔW is the transpose of B·A, a convolution's is B·A with the kernel flattened: neither alters these.
    Stacked experts have one each, and ‖ΔW‖² is the sum of theirs.

    Raises NotFound without a file of weights, VerificationFailed for one that isn't an adapter's, Unavailable without numpy.
    """
    require_numpy("comparing weights", "or leave the weights out with --no-weights")
    first, second = _open(folder_a, lora_a, "first"), _open(folder_b, lora_b, "second")
    notes = _notes(first, second)
    modules = []
    square_a = square_b = inner = 0.0
    for module in sorted(first.adapter.modules.keys() | second.adapter.modules.keys()):
        delta_a, delta_b = _delta(first, module, notes), _delta(second, module, notes)
        both = _inner(module, delta_a, delta_b, notes)
        square_a += delta_a.square if delta_a else 0.0
        square_b += delta_b.square if delta_b else 0.0
        inner += both or 0.0
        modules.append(
            ModuleDiff(
                module=module,
                norm_a=math.sqrt(delta_a.square) if delta_a else None,
                norm_b=math.sqrt(delta_b.square) if delta_b else None,
                cosine=_cosine(both, delta_a.square, delta_b.square) if delta_a and delta_b else None,
                rank_a=_rank(first, module, delta_a),
                rank_b=_rank(second, module, delta_b),
            )
        )
    return WeightsDiff(
        norm_a=math.sqrt(square_a),
        norm_b=math.sqrt(square_b),
        cosine=_cosine(inner, square_a, square_b),
        modules=modules,
        notes=notes,
    )


def _open(folder: Path, lora: LoraConfig, called: Literal["first", "second"]) -> _Side:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise NotFound(f"{folder} has no {WEIGHTS_FILE}; pull the version again", param="folder")
    try:
        adapter = LoraAdapter(read_tensors(path).values(), lora)
        for name in adapter.modules:
            _check_pair(path, adapter, name)
    except AdapterError as error:
        raise VerificationFailed(f"{path}: {error}; {_ADVICE}") from error
    if not adapter.modules:
        raise VerificationFailed(f"{path} has no LoRA weights; pull the version again")
    return _Side(path, called, adapter)


def _check_pair(path: Path, adapter: LoraAdapter[Tensor], name: str) -> None:
    """Raise VerificationFailed unless a module's halves have the same rank if they are matrices, AdapterError if one is
    missing.
    """
    module = adapter.modules[name]
    a, b = (half.shape for half in module.pair())
    matrices = len(a) == len(b) == 2
    if min(len(a), len(b)) < 2 or (a[0] != b[1] if matrices else module.embedding):
        raise VerificationFailed(
            f"{path}: {name!r} has A of {times(a)} and B of {times(b)}, which can't be multiplied; pull the version again"
        )
    if a[0] > _MAX_RANK:
        raise VerificationFailed(
            f"{path}: {name!r} has the rank {a[0]}, too high to compare; leave the weights out with --no-weights"
        )


def _rank(side: _Side, module: str, delta: _Delta | None) -> int | None:
    """Return a module's rank; for stacked experts, the rank of each expert."""
    if module not in side.adapter.modules:
        return None
    return side.adapter.modules[module].pair()[0].shape[0] // (1 if delta is None else delta.experts)


def _notes(first: _Side, second: _Side) -> list[str]:
    """Say what the files contain besides s·B·A."""
    notes = [
        f"{what} of {whose} are not part of s·B·A and are not compared"
        for what, whose in _whose(first.left_out(), second.left_out())
    ]
    said = [side.adapter.lora.init for side in (first, second)]
    inits = [{str(init)} if changes_base(init) else set() for init in said]
    notes += [
        f"the initialisation {init} of {whose} changes the base, so s·B·A is not everything that it adds"
        for init, whose in _whose(*inits)
    ]
    return notes


def _whose(first: set[str], second: set[str]) -> Iterator[tuple[str, str]]:
    for what in sorted(first | second):
        one = "the first adapter" if what in first else "the second adapter"
        yield what, "both adapters" if what in first & second else one


def _delta(side: _Side, module: str, notes: list[str]) -> _Delta | None:
    """Return ΔW of a module; None if the adapter has none, or one in another layout, which is noted."""
    if module not in side.adapter.modules:
        return None
    try:
        product = side.adapter.product(module)
    except NoProductError as error:
        notes.append(f"{module}: the {side.called} adapter {error.reason}, and is not compared")
        return None
    except AdapterError as error:
        raise VerificationFailed(f"{side.path}: {error}; {_ADVICE}") from error
    scale, layout = product.scale, product.layout
    if scale.said != scale.rank:
        notes.append(
            f"{module}: the {side.called} adapter's rank is {scale.rank}, not {scale.said} as its configuration says"
        )
    out, into = product.columns()
    shape = (layout.out[0], *layout.into)
    if layout.embedding:
        # An embedding stores its weight as (entries, dimension), the transpose of B·A.
        out, into, shape = into, out, shape[::-1]
    if layout.experts > 1:
        shape = (layout.experts, *shape)
    return _Delta(out, into, scale.scale, shape, layout.experts, _square(side.path, module, product))


def _square(path: Path, module: str, product: DeltaW[Tensor]) -> float:
    """Return ‖s·BA‖². Raises VerificationFailed for NaN, infinity and what overflows."""
    norm = combined(product.norms()) * abs(product.scale.scale)
    # A power that is out of range raises an error; a product becomes infinity.
    square = norm * norm
    if not square < _MAX_SQUARE:
        raise VerificationFailed(
            f"{path}: {module!r} holds NaN, infinity or numbers too large to compare; train it again"
        )
    return square


def _inner(module: str, a: _Delta | None, b: _Delta | None, notes: list[str]) -> float | None:
    """Return ⟨ΔW_a, ΔW_b⟩; None if one is absent, or if the shapes differ, which is noted."""
    if a is None or b is None:
        return None
    if a.shape != b.shape:
        notes.append(
            f"{module}: ΔW is {times(a.shape)} in the first adapter and {times(b.shape)} in the second, so it has no "
            "cosine and adds nothing to the cosine of the whole"
        )
        return None
    return sum_of_products(a.out.products(b.out), a.into.products(b.into), a.experts) * a.scale * b.scale


def _cosine(inner: float | None, square_a: float, square_b: float) -> float | None:
    norms = math.sqrt(square_a) * math.sqrt(square_b)
    return max(-1.0, min(1.0, inner / norms)) if inner is not None and norms else None
