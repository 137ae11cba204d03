"""How many parameters an adapter has, module by module, and how large its file is.

A of (r, in) and B of (out, r) have r·(in + out) numbers for a matrix of in·out (LoRA, arXiv:2106.09685); rsLoRA differs
only in its scale (arXiv:2312.03732); DoRA adds a magnitude for each row of the matrix (arXiv:2402.09353). Each of
several stacked experts has an A and a B of its own.

>>> from sdk.lora.planning.blueprint import blueprint_of
>>> from sdk.schemas.training import TrainingSpec
>>> tiny = blueprint_of({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
...                      "intermediate_size": 16, "vocab_size": 10})
>>> adapter = adapter_of(tiny, TrainingSpec(rank=4, targets="qv"))
>>> adapter.trainable, adapter.by_target()["q_proj"]
(256, 128)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from sdk.formats.adapter_files import PREFIX
from sdk.formats.base_files import HEADS
from sdk.formats.objectives import traits_of
from sdk.formats.peft_patterns import Budget, BudgetError, ModuleValues
from sdk.formats.safetensors_header import TensorEntry, written_header
from sdk.lora.experts import stacked_targets
from sdk.lora.linear_modules import layer_of
from sdk.lora.name_ends import NameEnds
from sdk.lora.planning.blueprint import ModelShapes
from sdk.lora.redistribution import most_parameters
from sdk.lora.targets import TargetsError, require_plannable, resolve_targets
from sdk.schemas.training import TrainingSpec

#: Adapters are trained and stored in float32.
ADAPTER_BYTES = 4
#: The end of PEFT's name for the rows of an embedding that are trained.
TOKENS_DELTA = "token_adapter.trainable_tokens_delta"
_HEADS = frozenset(HEADS)
#: The budget for finding the ranks of all modules; the largest models need a tenth of it.
_STEPS = 2_000_000


@dataclass(frozen=True)
class AdaptedModule:
    """One module, or one stacked parameter, with its A and B."""

    rank: int
    out: int
    into: int
    experts: int
    dora: bool

    @property
    def tensors(self) -> Iterator[tuple[str, list[int]]]:
        """The ends of PEFT's names for its tensors, after the module's name, and their shapes."""
        yield "lora_A.weight", [self.rank * self.experts, self.into]
        yield "lora_B.weight", [self.out, self.rank * self.experts]
        if self.dora:
            yield "lora_magnitude_vector", [self.out]

    @property
    def parameters(self) -> int:
        """The number of parameters in all of them."""
        return sum(math.prod(shape) for _, shape in self.tensors)


@dataclass(frozen=True)
class AdapterPlan:
    """What an adapter contains."""

    #: By the full name of the module, or of the stacked parameter.
    modules: Mapping[str, AdaptedModule]
    #: Biases, modules trained whole and rows of the embedding, by their names in a file, with their shapes.
    whole: Mapping[str, list[int]]
    #: As they would be stored: short names if these mean the same.
    targets: list[str]
    #: Whether logits come from the input embedding, so that rows which are trained are in both.
    tied: bool = False

    @cached_property
    def kinds(self) -> Mapping[AdaptedModule, int]:
        """How many modules there are of each kind: a model has thousands of modules, of a few kinds."""
        return Counter(self.modules.values())

    @cached_property
    def layers(self) -> Collection[tuple[tuple[int, AdaptedModule], ...]]:
        """The modules of each layer, once for all layers that have the same: each with a number for the module that it
        is in.
        """
        found: dict[str, list[tuple[str, AdaptedModule]]] = {}
        for name, module in self.modules.items():
            number = next((part for part in name.split(".") if part.isdecimal()), "")
            found.setdefault(number, []).append((name.rpartition(".")[0], module))
        return {tuple(_numbered(modules)) for modules in found.values()}

    @cached_property
    def trains_head(self) -> bool:
        """Whether a part of the output head is trained."""
        names = (*self.modules, *self.whole)
        return any(not _HEADS.isdisjoint(name.split(".")) for name in names) or (self.tied and self.trains_rows)

    @cached_property
    def trains_rows(self) -> bool:
        """Whether single rows of the input embedding are trained."""
        return any(name.endswith(TOKENS_DELTA) and _HEADS.isdisjoint(name.split(".")) for name in self.whole)

    @cached_property
    def trains_head_rows(self) -> bool:
        """Whether single rows of the output head are trained."""
        own = any(name.endswith(TOKENS_DELTA) and not _HEADS.isdisjoint(name.split(".")) for name in self.whole)
        return own or (self.tied and self.trains_rows)

    @cached_property
    def trainable(self) -> int:
        """The number of trained parameters."""
        adapted = sum(count * module.parameters for module, count in self.kinds.items())
        return adapted + sum(map(math.prod, self.whole.values()))

    def most_trainable(self, spec: TrainingSpec) -> int:
        """Return the most parameters that can be trained, however EVA moves ranks between modules."""
        counted = sum(module.rank * (module.out + module.into) for module in self.modules.values())
        most = most_parameters(((module.out, module.into) for module in self.modules.values()), spec)
        return self.trainable - counted + most

    def by_target(self) -> dict[str, int]:
        """Trainable parameters by the last part of the modules' names, including what is trained whole."""
        found: dict[str, int] = {}
        for name, module in self.modules.items():
            last = name.rpartition(".")[2]
            found[last] = found.get(last, 0) + module.parameters
        for name, shape in self.whole.items():
            found[name] = math.prod(shape)
        return dict(sorted(found.items()))

    @property
    def size_bytes(self) -> int:
        """Bytes of `adapter_model.safetensors`, header included."""
        entries = [
            TensorEntry(PREFIX + name, "F32", shape, ADAPTER_BYTES * math.prod(shape))
            for name, shape in sorted(self._tensors())
        ]
        return len(written_header(entries, {"format": "pt"})) + sum(entry.size_bytes for entry in entries)

    def _tensors(self) -> Iterator[tuple[str, list[int]]]:
        wrapped: Counter[str] = Counter()
        for name, module in self.modules.items():
            stored = name
            if module.experts > 1:
                # PEFT stores a parameter's A and B under its module, and wraps several parameters one around the other.
                owner = name.rpartition(".")[0]
                stored = owner + ".base_layer" * wrapped[owner]
                wrapped[owner] += 1
            yield from ((f"{stored}.{part}", shape) for part, shape in module.tensors)
        yield from self.whole.items()


def _numbered(modules: Collection[tuple[str, AdaptedModule]]) -> Iterator[tuple[int, AdaptedModule]]:
    numbers: dict[str, int] = {}
    for owner, module in modules:
        yield numbers.setdefault(owner, len(numbers)), module


@dataclass(frozen=True)
class Meant:
    """What the targets select in a base."""

    #: As they would be stored, including stacked parameters.
    targets: list[str]
    #: The targets that are stacked parameters.
    parameters: list[str]
    #: Full names of the linear modules.
    modules: list[str]


def meant_by(blueprint: ModelShapes, spec: TrainingSpec) -> Meant:
    """Return what the targets of a training select in a base. Raises TargetsError if they select nothing, or the base has
    more modules than a model.
    """
    names = sorted(blueprint.linear)
    require_plannable(names)
    experts = stacked_targets(spec.targets, names, sorted(blueprint.stacked), exclude=spec.exclude)
    left = set(spec.targets.split(",")).difference(experts)
    wanted = ",".join(name for name in spec.targets.split(",") if name in left) if experts else spec.targets
    if not wanted:
        return Meant(sorted(experts), experts, [])
    found = resolve_targets(wanted, blueprint.model_type, names, exclude=spec.exclude, layers=spec.layers)
    return Meant(sorted([*experts, *found]), experts, sorted(NameEnds(names).meant_by(found)))


def adapter_of(blueprint: ModelShapes, spec: TrainingSpec) -> AdapterPlan:
    """Return what a training of `spec` over a base adapts. Raises TargetsError for targets that select nothing in it."""
    linear, meant = blueprint.linear, meant_by(blueprint, spec)
    parameters = NameEnds(blueprint.stacked).meant_by(meant.parameters)
    layers = None if spec.layers is None else set(spec.layers)
    try:
        ranks = ModuleValues(dict(sorted(spec.ranks.items())), spec.rank, Budget(_STEPS))
        modules = {name: AdaptedModule(ranks.of(name), *linear[name], 1, spec.use_dora) for name in meant.modules}
        for name, (count, out, into) in blueprint.stacked.items():
            if name in parameters and (layers is None or layer_of(name) in layers):
                modules[name] = AdaptedModule(ranks.of(name), out, into, count, dora=False)
    except BudgetError as error:
        raise TargetsError(
            "rank_pattern takes too long to try on the names of all modules; name fewer modules in it."
        ) from error
    tied = blueprint.tied and traits_of(spec.objective).predicts_tokens
    return AdapterPlan(modules, dict(_whole(blueprint, spec, modules)), meant.targets, tied)


def _whole(
    blueprint: ModelShapes, spec: TrainingSpec, modules: Mapping[str, AdaptedModule]
) -> Iterator[tuple[str, list[int]]]:
    """Biases, modules and rows of the embedding that are trained besides A and B."""
    tensors = dict(blueprint.tensors)
    if blueprint.tied:
        # A tied head that is trained whole becomes a matrix of its own.
        tensors["lm_head.weight"] = [blueprint.vocabulary, blueprint.hidden]
    owned: dict[str, list[str]] = {}
    if spec.modules_to_save is not None:
        for name in tensors:
            owned.setdefault(name.rpartition(".")[0], []).append(name)
    owners = NameEnds(owned)
    for saved in spec.saved_modules:
        found = [name for owner in sorted(owners.meant_by([saved])) for name in owned[owner]]
        if not found:
            raise TargetsError(
                f"modules_to_save names {saved!r}, and this {blueprint.model_type} model has no such module."
            )
        yield from ((name, list(tensors[name])) for name in found)
    if spec.bias != "none":
        biases = [name for name in tensors if name.endswith(".bias")]
        yield from (
            (name, list(tensors[name]))
            for name in biases
            if spec.bias == "all" or name.removesuffix(".bias") in modules
        )
    if (tokens := spec.tokens) and tokens[-1] >= blueprint.vocabulary:
        raise TargetsError(
            f"trainable_token_indices names the token {tokens[-1]}, and the base has {blueprint.vocabulary} of them."
        )
    if rows := [*tokens, *spec.added]:
        yield f"model.embed_tokens.{TOKENS_DELTA}", [len(rows), blueprint.hidden]
    if spec.added and not blueprint.tied and spec.objective != "classify":
        yield f"lm_head.{TOKENS_DELTA}", [len(spec.added), blueprint.hidden]
