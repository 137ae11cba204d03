"""One adapted module: its A and B, the magnitudes and the bias beside them, and whether they fit each other and the base.

| layer | A | B | magnitudes |
|---|---|---|---|
| linear | (r, in) | (out, r) | (out) |
| convolution | (r, in, k…) | (out, r, 1…) | (1, out, 1…) |
| embedding | (r, entries) | (dimension, r) | (dimension) |
| stacked experts | (r·experts, in) | (out, r·experts) | |

>>> b = TensorFacts("base_model.model.x.lora_B.weight", "F32", (3, 2), zero=True)
>>> effect(Module("x", {"A": b._replace(zero=False), "B": b}), 8.0).most
-inf
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from registry.artifacts.admission.expected_modules import ConfigTargets
from registry.artifacts.admission.expected_shapes import EMBEDDINGS, SAVE, BaseShapes, Ranks
from registry.artifacts.admission.inspection import ConfigFacts, TensorFacts
from registry.errors import Verification
from sdk.formats.adapter_files import CONFIG_FILE, base_module, lora_key
from sdk.formats.peft_patterns import suffixes
from sdk.lora.adapter import AdapterError, LoraModule, times

Shape = tuple[int, ...]
Module = LoraModule[TensorFacts]


def effect(module: Module, scale: float) -> Effect:
    """Say how large ΔW = s·B·A and B's bias may be, for |s|, from its norm and from the largest magnitudes of A and B."""
    (a, b), bias = module.pair(), module.parts.get("B.bias")
    if scale == 0 or a.zero or b.zero or b.norm == 0:
        least = most = -math.inf
    else:
        # Each number of B·A is a sum of r products: a single one may be as large as the largest number of B times
        # the largest of A, and none is larger than r times that, or than the norm of the whole.
        exponents = math.log2(scale) + a.exponent + b.exponent
        least, most = exponents - 2, exponents + math.log2(max(b.shape[1], 1))
        if b.norm is not None:
            most = min(most, math.log2(scale) + math.log2(b.norm))
    if bias is not None and not bias.zero:
        most = max(most, math.log2(scale) + bias.exponent if scale else -math.inf)
    return Effect(least, most)


class Modules(Mapping[str, Module]):
    """The adapted modules of a file, each made when it is asked for. Nobody changes what they got.

    >>> from registry.artifacts.admission.inspection import Tensors, WeightFacts
    >>> a = TensorFacts("base_model.model.x.lora_A.weight", "F32", (2, 3), zero=False)
    >>> modules = Modules(Tensors(WeightFacts.of([a, a._replace(name="base_model.model.x.lora_B.weight")])))
    >>> modules.put("x", 0), modules.put("x", 1), list(modules), list(modules["x"].parts)
    (None, None, ['x'], ['A', 'B'])
    """

    def __init__(self, tensors: Sequence[TensorFacts]) -> None:
        self._tensors = tensors
        #: The last tensor of each module, and for each tensor the one before it of the same module, or itself.
        self._last: dict[str, int] = {}
        self._before = array("I", range(len(tensors)))

    def put(self, module: str, index: int) -> None:
        """Add a tensor of LoRA's own, by its number."""
        self._before[index] = self._last.get(module, index)
        self._last[module] = index

    def __getitem__(self, name: str) -> Module:
        """Raises Verification for a part under two names."""
        index, found = self._last[name], []
        while True:
            found.append(index)
            if (before := self._before[index]) == index:
                break
            index = before
        module = Module(name, {})
        try:
            for one in reversed(found):
                tensor = self._tensors[one]
                key = lora_key(tensor.name)
                assert key is not None
                module.put(key.part, tensor)
        except AdapterError as error:
            raise Verification(
                f"{error}; save the adapter again, with save_embedding_layers=False where it adapts embeddings"
            ) from error
        return module

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)


class Effect(NamedTuple):
    """The size of ΔW in powers of two."""

    #: Some product of a number of B and one of A is at least this large.
    product: float
    #: No number of ΔW is larger.
    most: float


def judge_module(
    name: str,
    module: Module,
    config: ConfigFacts,
    base: BaseShapes,
    ranks: Ranks,
    targets: ConfigTargets,
    parameters: Mapping[str, list[str]],
) -> None:
    """Check one module's tensors; `parameters` are the modules with target parameters. Raises Verification."""
    parts = module.parts
    try:
        a, b = (half.shape for half in module.pair())
    except AdapterError as error:
        raise Verification(f"{name} has only one of lora_A and lora_B; save the adapter again") from error
    embedding = module.embedding
    plain = base_module(name)
    # A name without a module means that parameter of any module that has it.
    owned = [parameter for end in ("", *suffixes(plain)) for parameter in parameters.get(end, ())]
    rank = ranks.of(plain)
    if not targets.mean(plain, base) or (owned and not base.shapes(f"{plain}.weight")):
        if not owned:
            raise Verification(
                f"{name} is not among the modules that {CONFIG_FILE} targets, by target_modules "
                f"({', '.join(config.target_modules or [])[:200]}), exclude_modules and layers_to_transform; save the adapter again"
            )
        stacked = [shape for parameter in owned for shape in base.shapes(f"{plain}.{parameter}")]
        if not stacked and not base.may_stack(plain):
            raise Verification(
                f"the base has no parameter {plain}.{min(owned)}, which target_parameters of {CONFIG_FILE} may mean, and no experts in its "
                "place; the adapter belongs to another base"
            )
        # The patterns match a parameter's own name, which isn't in the tensor's name.
        possible = sorted({ranks.of(f"{plain}.{parameter}") for parameter in owned})
        _judge_experts(name, a, b, possible, stacked or base.stacked(plain))
        return
    _judge_rank(name, a, b, rank, config, embedding=embedding)
    _judge_base(name, plain, a, b, config, base, embedding=embedding)
    _judge_magnitudes(name, parts.get("magnitude_vector"), b[0], config)
    _judge_bias(name, parts.get("B.bias"), b[0], config, embedding=embedding)
    if config.lora_bias and not embedding and base.shapes(f"{plain}.weight") and not base.shapes(f"{plain}.bias"):
        raise Verification(
            f"lora_bias is true, and the base's {plain} has no bias to add B's to, so the adapter could never "
            "be merged; train again without lora_bias"
        )


def _judge_rank(name: str, a: Shape, b: Shape, rank: float, config: ConfigFacts, *, embedding: bool) -> None:
    # Block-diagonal LoRA cuts B's columns into blocks, and a convolution may take its channels in groups.
    parted = (len(a) > 2 or "use_bdlora" in config.variants) and len(b) >= 2 and rank % b[1] == 0
    fits = len(a) >= 2 and len(a) == len(b) and a[0] == rank and (b[1] == rank or parted)
    if not fits or (embedding and len(a) != 2) or any(size != 1 for size in b[2:]):
        raise Verification(
            f"{name}: A is {list(a)} and B is {list(b)}, which is not of rank {rank} as the configuration says"
        )


def _judge_base(
    name: str, plain: str, a: Shape, b: Shape, config: ConfigFacts, base: BaseShapes, *, embedding: bool
) -> None:
    # The three projections of PyTorch's own attention are one weight.
    weights = base.shapes(f"{plain}.weight") or base.shapes(f"{plain}.in_proj_weight")
    if not weights:
        if base.known:
            raise Verification(f"the base has no module {plain}; the adapter belongs to another base")
        return
    transposed = base.lies_transposed(plain)
    fitting = [weight for weight in weights if _fits(weight, a, b, config, embedding=embedding, transposed=transposed)]
    if not fitting:
        rows = a[1] if embedding else b[0]
        if plain.rpartition(".")[2] in EMBEDDINGS and [rows, b[0] if embedding else a[1]] in [
            [rows, *weight[1:]] for weight in weights
        ]:
            raise Verification(
                f"the vocabulary was resized: {name} is of {rows} tokens, the base of {weights[0][0]}; {SAVE}"
            )
        if not embedding and len(a) == 2 and transposed is not None and [b[0], a[1]] in _turned(weights, transposed):
            raise Verification(
                f"{name}: B·A is {b[0]}×{a[1]}, which is transposed: the base's weight in its module has {a[1]} outputs and "
                f"{b[0]} inputs; save the adapter again with PEFT from the trained model"
            )
        raise Verification(
            f"{name}: B·A is {b[0]}×{a[1]}, the base's weight is {times(weights[0])}; the adapter belongs to another base"
        )
    # Only a true flag can be trusted: PEFT keeps one for all modules, the last one's, and leaves it false if a 4-bit
    # Linear replaces GPT-2's Conv1D. Convolutions, which have more than two dimensions, ignore it.
    if config.fan_in_fan_out and not embedding and not any(w == [a[1], b[0]] or len(w) != 2 for w in fitting):
        raise Verification(
            f"{CONFIG_FILE} says fan_in_fan_out, but the base keeps {plain} as (out, in); set it to false and push again"
        )


def _turned(weights: list[list[int]], transposed: bool) -> list[list[int]]:
    """Return the shapes (in, out) of B·A for an adapter that took each weight for transposed."""
    return [weight if transposed else weight[::-1] for weight in weights]


def _fits(
    weight: list[int], a: Shape, b: Shape, config: ConfigFacts, *, embedding: bool, transposed: bool | None
) -> bool:
    """Whether B·A can be added to a weight that is transposed, that isn't, or of which nobody knows (None)."""
    if embedding:
        return weight == [a[1], b[0]]
    if len(a) > 2:
        groups = a[0] // b[1]
        return weight == [b[0], a[1] // groups, *a[2:]]
    if (weight == [b[0], a[1]] and not transposed) or (weight == [a[1], b[0]] and transposed is not False):
        return True
    # The A of block-diagonal and group-wise LoRA has a share of the inputs, which divides their number.
    shared = "use_bdlora" in config.variants or "use_qalora" in config.variants
    return shared and len(weight) == 2 and weight[0] == b[0] and weight[1] % a[1] == 0


def _judge_experts(name: str, a: Shape, b: Shape, ranks: list[float], weights: list[list[int]]) -> None:
    """Check A (r·experts, in) and B (out, r·experts) against stacked weights of (experts, …, …), if these are known."""
    width = a[0] if len(a) == len(b) == 2 and a[0] == b[1] else 0
    if not width or all(width % rank for rank in ranks):
        raise Verification(
            f"{name}: A is {list(a)} and B is {list(b)}, which is not of rank {' or '.join(map(str, ranks))} for each expert as the configuration says"
        )
    sizes = sorted((a[1], b[0]))
    if weights and not any(
        sorted(weight[-2:]) == sizes and width == rank * math.prod(weight[:-2]) for weight in weights for rank in ranks
    ):
        raise Verification(
            f"{name}: B·A is {b[0]}×{a[1]}, the base's weights are {times(weights[0])}; the adapter belongs to another base"
        )


def _judge_magnitudes(name: str, magnitudes: TensorFacts | None, out: int, config: ConfigFacts) -> None:
    if magnitudes is None and config.use_dora:
        raise Verification(f"{name} has no lora_magnitude_vector, though use_dora is true; save the adapter again")
    if magnitudes is not None and not config.use_dora:
        raise Verification(
            f"{name} has a lora_magnitude_vector, which is not loaded while use_dora is false; set it to true and push again"
        )
    if magnitudes is not None and not (math.prod(magnitudes.shape) == max(magnitudes.shape) == out):
        raise Verification(
            f"{name}: lora_magnitude_vector is {list(magnitudes.shape)}, not one number for each of {out} outputs; save the adapter again"
        )


def _judge_bias(name: str, bias: TensorFacts | None, out: int, config: ConfigFacts, *, embedding: bool) -> None:
    if bias is None and config.lora_bias and not embedding:
        raise Verification(f"{name} has no lora_B.bias, though lora_bias is true; save the adapter again")
    if bias is not None and not (config.lora_bias and bias.shape == (out,)):
        raise Verification(
            f"{name}: lora_B.bias of {list(bias.shape)} does not fit {out} outputs and lora_bias {str(config.lora_bias).lower()}; "
            "save the adapter again"
        )
