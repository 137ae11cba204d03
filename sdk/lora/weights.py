"""How the weights of two adapters differ: norms and cosines of ΔW = s·B·A, module by module, with numpy alone.

The scale s is α/r, or α/√r with rsLoRA, where r is the module's real rank and α may come from `alpha_pattern`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from sdk.errors import NotFound, Unavailable, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE, base_module, lora_key
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues, suffixes
from sdk.formats.peft_unusable import changes_base
from sdk.lora.experts import largest_sum, owned_parameters, sum_of_products
from sdk.lora.tensors import Columns, Tensor, TensorFile, open_tensors
from sdk.schemas.training import LoraConfig

#: The products compared are (rank, rank), so that a rank without bound would be memory without bound.
_MAX_RANK = 4096
#: For the patterns of an adapter; all are some two seconds.
_PATTERN_STEPS = 10_000_000
#: What is left of a sum whose terms cancel to this share of their size is rounding and no weight.
_ROUNDING = 1e-12
#: A squared norm beyond this can't be summed; no adapter that works comes near.
_MAX_SQUARE = 1e200

#: Parts of LoRA that are not part of s·B·A.
_LEFT_OUT = {"magnitude_vector": "DoRA's magnitudes", "B.bias": "LoRA biases"}

V = TypeVar("V")


@dataclass(frozen=True)
class ModuleDelta:
    """What two adapters do to one module; None where it can't be said."""

    #: As the base names it, without PEFT's prefix.
    module: str
    #: ‖ΔW‖, the Frobenius norm; None where the adapter leaves the module alone, or a note says why.
    norm_a: float | None
    norm_b: float | None
    #: ⟨ΔW_a, ΔW_b⟩ / (‖ΔW_a‖ ‖ΔW_b‖); None where one is absent or zero, or the shapes differ.
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
    #: None where one adapter is zero throughout.
    cosine: float | None
    #: What the numbers leave out, in sentences.
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Delta:
    """ΔW = s·out·inᵀ of one module of one adapter, as the layer holds it."""

    #: (rows of ΔW, r)
    out: Columns
    #: (columns of ΔW, r)
    into: Columns
    scale: float
    shape: tuple[int, ...]
    #: Of a stacked weight; 1 for any other.
    experts: int
    #: ‖ΔW‖²
    square: float


@dataclass(frozen=True)
class _Adapter:
    file: TensorFile
    lora: LoraConfig
    ranks: ModuleValues[int]
    alphas: ModuleValues[float]
    #: Module to its A and B.
    pairs: dict[str, dict[str, Tensor]]
    embeddings: set[str]
    #: What else is in the file, which the comparison leaves out.
    left_out: set[str]


def compare_weights(folder_a: Path, folder_b: Path, *, lora_a: LoraConfig, lora_b: LoraConfig) -> WeightDiff:
    """Compare the ΔW = s·B·A of two pulled adapters, A being (r, in) and B (out, r), in float64.

    No ΔW of (out, in) is ever formed, for the trace is cyclic (Petersen and Pedersen, The Matrix Cookbook, eq. 16):
    ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB)∘(AAᵀ), and likewise ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂)∘(A₁A₂ᵀ), both sums over (r₁, r₂) numbers.
    An embedding's ΔW is the transpose of B·A, a convolution's is B·A with the kernel flattened: neither alters these.
    Stacked experts have one each, and ‖ΔW‖² is the sum of theirs.

    Raises NotFound without a file of weights, VerificationFailed for one that is not an adapter's, Unavailable without numpy.
    """
    require_numpy()
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


def require_numpy() -> None:
    """Raise Unavailable, which names the extra, where numpy is missing."""
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            "comparing weights needs numpy, which is not installed; run: pip install 'adapterctl[local]', "
            "or leave the weights out with --no-weights"
        ) from error


def _values(patterns: Mapping[str, V], default: V, budget: Budget) -> ModuleValues[V]:
    """Return what patterns say, tried in the order in which PEFT meets them: the file is written with sorted keys.

    Raises VerificationFailed for a key that can't be tried.
    """
    try:
        return ModuleValues(dict(sorted(patterns.items())), default, budget)
    except ExpressionError as error:
        raise VerificationFailed(
            f"the adapter's configuration has a pattern that can't be used, since {error}; push the adapter again with: "
            "adapterctl push --expand-patterns"
        ) from error


def _open(folder: Path, lora: LoraConfig) -> _Adapter:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise NotFound(f"{folder} has no {WEIGHTS_FILE}; pull the version again", param="folder")
    budget = Budget(_PATTERN_STEPS)
    ranks, alphas = _values(lora.rank_pattern, lora.rank, budget), _values(lora.alpha_pattern, lora.alpha, budget)
    adapter = _Adapter(open_tensors(path), lora, ranks, alphas, {}, set(), set())
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
    """Raise VerificationFailed unless a module has both halves, of a rank that they share as far as they are matrices."""
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
    """Return a module's rank: of stacked experts that of each."""
    if module not in adapter.pairs:
        return None
    return adapter.pairs[module]["A"].shape[0] // (1 if delta is None else delta.experts)


def _notes(first: _Adapter, second: _Adapter) -> list[str]:
    """Say what the files hold that s·B·A does not."""
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
    """Return ΔW of a module; None where the adapter has none, or one in another layout, which is noted."""
    if module not in adapter.pairs:
        return None
    a, b = (adapter.pairs[module][half] for half in "AB")
    rank = a.shape[0]
    # PEFT gives B of a convolution a kernel of ones, and fewer columns than A has rows where channels are grouped.
    if len(a.shape) != len(b.shape) or b.shape[1] != rank or not set(b.shape[2:]) <= {1}:
        notes.append(
            f"{module}: the {side} adapter's A of {_times(a.shape)} and B of {_times(b.shape)} belong to a grouped "
            "convolution and are not compared"
        )
        return None
    record = _said(adapter, module, width=rank)
    if record is None:
        notes.append(f"{module}: the rank of each expert of the {side} adapter is unknown, so they are not compared")
        return None
    said, alpha, experts = record
    rank //= experts
    if said != rank:
        notes.append(f"{module}: the {side} adapter's rank is {rank}, not {said} as its configuration says")
    scale = alpha / (math.sqrt(rank) if adapter.lora.use_rslora else rank)
    out, into, shape = adapter.file.rows(b), adapter.file.rows(a).transposed(), (b.shape[0], *a.shape[1:])
    if module in adapter.embeddings:
        # An embedding holds its weight as (entries, dimension), which is the transpose of B·A.
        out, into, shape = into, out, (a.shape[1], b.shape[0])
    if experts > 1:
        shape = (experts, *shape)
    return _Delta(out, into, scale, shape, experts, _square(adapter, module, out, into, scale, experts))


def _said(adapter: _Adapter, module: str, *, width: int) -> tuple[int, float, int] | None:
    """Return what the configuration says of a module, rank and alpha, and how many experts its A and B are of.

    `width` are the rows of A: of experts, the rank of each times their number. Patterns name the parameters of a stacked
    weight, which the file does not; None where they leave it open which one this is.
    """
    targets, plain = set(adapter.lora.target_modules), base_module(module)
    owned = owned_parameters(plain, adapter.lora.target_parameters)
    stacked = bool(owned) and not any(end in targets for end in suffixes(plain))
    names = [f"{plain}.{name.rpartition('.')[2]}" for name in owned] if stacked else [module]
    try:
        found = {(adapter.ranks.of(name), adapter.alphas.of(name)) for name in names}
    except BudgetError as error:
        raise VerificationFailed(
            f"the patterns of {adapter.file.path} take too long to try; leave the weights out with --no-weights"
        ) from error
    if stacked:
        found = {(rank, alpha) for rank, alpha in found if width % rank == 0}
    if len(found) != 1:
        return None
    ((rank, alpha),) = found
    return rank, alpha, width // rank if stacked else 1


def _square(adapter: _Adapter, module: str, out: Columns, into: Columns, scale: float, experts: int) -> float:
    """Return ‖s·BA‖². Raises VerificationFailed for NaN, infinity and what overflows."""
    import numpy as np

    with np.errstate(all="ignore"):
        gram_out, gram_into = out.products(out), into.products(into)
        square = sum_of_products(gram_out, gram_into, experts) * scale * scale
        bound = largest_sum(gram_out, gram_into, experts) * scale
    if not abs(square) < _MAX_SQUARE:
        raise VerificationFailed(
            f"{adapter.file.path}: {module!r} holds NaN, infinity or numbers too large to compare; train it again"
        )
    # Two adapters joined with opposite weights cancel: what rounding leaves of them has no direction.
    return square if square > _ROUNDING * bound * bound else 0.0


def _inner(module: str, a: _Delta | None, b: _Delta | None, notes: list[str]) -> float | None:
    """Return ⟨ΔW_a, ΔW_b⟩; None where one is absent, or where the shapes differ, which is noted."""
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
