"""What an adapter's tensors are checked against: the base's shapes by a module's name, and a module's rank by a
pattern.

Both are looked up for up to hundreds of thousands of names that a stranger wrote, so neither may search a list.

>>> base = BaseShapes({"h.0.attn.c_attn.weight": [16, 48]})
>>> base.shapes("transformer.h.0.attn.c_attn.weight"), base.shapes("transformer.h.1.attn.c_attn.weight")
([[16, 48]], [])
>>> Ranks({"q_proj": 4, r"layers\\.0\\..*": 2}, 8).of("model.layers.0.v_proj")
2
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Self

from registry.artifacts.admission.inspection import WeightFacts
from registry.errors import Verification
from sdk.formats.adapter_files import base_parameter, unwrapped
from sdk.formats.base_files import HEADS, INPUT_EMBEDDINGS
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues, suffixes
from sdk.lora.linear_modules import is_text
from sdk.lora.trained_tokens import highest_token, missing_rows
from sdk.schemas.lora_config import LoraConfig

_LAYER = re.compile(r"[^.]+\.[0-9]+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SINGLE_EXPERT = re.compile(r"(.*\bexperts)\.([0-9]{1,6})\.([^.]+)\.weight")
#: A thousand modules with ten patterns need a hundredth of it; using it up takes some two seconds.
_PATTERN_STEPS = 10_000_000
EMBEDDINGS = (*INPUT_EMBEDDINGS, *HEADS)
#: Modules that transformers makes of Conv1D in models of these types, and of Linear in others.
_CONV1D_MODULES = ("c_attn", "q_attn", "c_proj", "c_fc")
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
#: No base has this many.
_MOST_EMBEDDINGS = 8
#: Tensors that differ only in what precedes the list of their layers, or shapes of a layer's experts. Today's models of
#: several parts have three of the same name.
_MOST_ALIKE = 16
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_KEYS_AND_VALUES = ("k_proj", "v_proj", "k_norm", "v_norm")


class Place(NamedTuple):
    """Where a module is: model.layers, 3, self_attn.q_proj."""

    #: The list of layers.
    before: str
    #: The first number in a name.
    number: int
    #: Empty if the list has the modules themselves.
    after: str

    @classmethod
    def of(cls, module: str) -> Self | None:
        """Return a module's place by its name; None if it has no number, or begins with one."""
        parts = module.split(".")
        at = next((position for position, part in enumerate(parts) if _NUMBER.fullmatch(part)), None)
        return cls(".".join(parts[:at]), int(parts[at]), ".".join(parts[at + 1 :])) if at else None


class BaseShapes:
    """The shapes of a base's tensors, found by the names that PEFT has for them.

    `config` is the base's, {} if it is not known; `vocabulary` is the number of tokens of an adapter with embeddings of
    more or fewer tokens than the base has.
    """

    def __init__(
        self,
        tensors: Mapping[str, list[int]],
        config: Mapping[str, Any] | None = None,
        *,
        vocabulary: int | None = None,
    ) -> None:
        self._tensors = tensors
        self._config = config or {}
        self._vocabulary = vocabulary
        self._by_tail: dict[str, list[str]] = {}
        #: By layer: the numbers of its single experts, and the shapes of their weights.
        self._experts: dict[str, tuple[set[int], set[tuple[int, ...]]]] = {}
        #: Layers with stacked weights, or with experts under any name; "" is outside of all layers.
        self._stacking: set[str] = set()
        for name, shape in tensors.items():
            end = tail(name)
            self._by_tail.setdefault(end, []).append(name)
            layer = _LAYER.match(end)
            if len(shape) > 2 or "experts" in name:
                self._stacking.add(layer[0] if layer else "")
            if layer and len(shape) == 2 and (single := single_expert(end)):
                numbers, shapes = self._experts.setdefault(layer[0], (set(), set()))
                numbers.add(int(single[2]))
                shapes.add(tuple(shape))

    @property
    def known(self) -> bool:
        """Whether anything is known of the base's tensors."""
        return bool(self._tensors)

    @property
    def names(self) -> Collection[str]:
        """The names of its tensors, as its files have them."""
        return self._tensors

    def loads(self, place: Place) -> bool | None:
        """Whether its model has a layer of this number with this module, since files may have more of both; None if its
        config doesn't say.
        """
        text, layers, shared = self._layers
        if layers is None or (text and not is_text(place.before)):
            return None
        # The last layers take their keys and values from those before them.
        return place.number < (layers - shared if place.after.rpartition(".")[2] in _KEYS_AND_VALUES else layers)

    @cached_property
    def _layers(self) -> tuple[bool, int | None, int]:
        """Whether the config is of a model of several parts, how many layers it has by its config, and how many share
        keys and values.
        """
        text = self._config.get("text_config")
        several = isinstance(text, Mapping)
        config = {**self._config, **text} if isinstance(text, Mapping) else self._config
        layers = next((config[key] for key in _LAYERS if key in config), None)
        shared = config.get("num_kv_shared_layers")
        return several, layers if isinstance(layers, int) else None, shared if isinstance(shared, int) else 0

    @cached_property
    def embeddings(self) -> list[str]:
        """Its input embeddings, as its files name the modules."""
        modules = (name.removesuffix(".weight") for name in self._tensors if name.endswith(".weight"))
        return [module for module in modules if module.rpartition(".")[2] in INPUT_EMBEDDINGS][:_MOST_EMBEDDINGS]

    def with_vocabulary(self, rows: int | None) -> BaseShapes:
        """Return the shapes of this base after its vocabulary was changed to this number of tokens."""
        return BaseShapes(self._tensors, self._config, vocabulary=rows)

    def shapes(self, name: str) -> list[list[int]]:
        """Return the shapes that the tensor may have: none if the base lacks it, several if names are ambiguous.

        Raises Verification if more names are similar than can be tried.
        """
        found = [self._tensors[other] for other in self._named(name)]
        module, _, kind = name.rpartition(".")
        last = module.rpartition(".")[2]
        if kind != "weight" or last not in EMBEDDINGS:
            return found
        if not found and last in HEADS:
            # A head that is tied to the embeddings is in no file.
            found = [self._tensors[f"{embedding}.weight"] for embedding in self.embeddings]
        return [[self._vocabulary or shape[0], *shape[1:]] for shape in found]

    def is_tied(self, head: str) -> bool:
        """Whether a module is an output head without a weight of its own in the base's files, since it uses the one of
        the embeddings.
        """
        return self.known and head.rpartition(".")[2] in HEADS and not self._named(f"{head}.weight")

    def lies_transposed(self, module: str) -> bool | None:
        """Whether the base keeps a module's weight as (in, out), as Conv1D does; None if it is not known what the base
        is.
        """
        if module.rpartition(".")[2] not in _CONV1D_MODULES:
            return False
        if self._skipped is not None and not any(end in self._skipped for end in suffixes(module)):
            # It is replaced by an ordinary linear layer of packed weights.
            return False
        kind = self._config.get("model_type")
        return None if kind is None else kind in _CONV1D_MODELS

    @cached_property
    def _skipped(self) -> frozenset[str] | None:
        """The modules that are not quantised, of a base that is; None for any other."""
        stored = self._config.get("quantization_config")
        if not isinstance(stored, Mapping):
            return None
        names = stored.get("llm_int8_skip_modules")
        return frozenset(name for name in (names if isinstance(names, list) else []) if isinstance(name, str))

    def _named(self, wanted: str) -> list[str]:
        if wanted in self._tensors:
            return [wanted]
        # Some weight files leave out the model's own prefix ("transformer."), or carry one more ("model.").
        alike = self._by_tail.get(tail(wanted), [])
        if len(alike) > _MOST_ALIKE:
            raise Verification(
                f"the base has {len(alike)} tensors whose names end like {wanted}, but none with this name, so it is unclear "
                f"which is meant (at most {_MOST_ALIKE} are tried); save the adapter again with the base's own names"
            )
        near = [other for other in alike if wanted.endswith("." + other) or other.endswith("." + wanted)]
        # Others have a different prefix than the model that the library makes of them: only what follows it can be
        # compared.
        return near or (alike if any(part.isdigit() for part in wanted.split(".")) else [])

    def experts(self, module: str) -> set[int]:
        """Return the numbers of the single experts that its files have in the layer of a module."""
        layer = _LAYER.match(tail(f"{module}."))
        return self._experts.get(layer[0], (set(), set()))[0] if layer else set()

    def may_stack(self, module: str) -> bool:
        """Whether a module may have stacked parameters: its layer has some, or has experts, or nothing is known about
        the base.
        """
        layer = _LAYER.match(tail(f"{module}."))
        return not self.known or (layer[0] if layer else "") in self._stacking

    def stacked(self, module: str) -> list[list[int]]:
        """Return the shapes that stacked parameters of a module of experts may have, if the files store expert by
        expert.

        Two matrices of the same shape may be stacked as one: the gate and the one that it is multiplied with.
        """
        layer = _LAYER.match(tail(f"{module}."))
        numbers, shapes = self._experts.get(layer[0], (set(), set())) if layer else (set(), set())
        if len(shapes) > _MOST_ALIKE:
            raise Verification(
                f"the base has experts of {len(shapes)} shapes in the layer of {module}, which no library stacks; adapt other "
                "modules"
            )
        return [[len(numbers), times * out, into] for out, into in sorted(shapes) for times in (1, 2)]


def single_expert(tensor: str) -> re.Match[str] | None:
    """For a weight of a single expert, return the list that the expert is in, its number and the matrix."""
    return _SINGLE_EXPERT.fullmatch(tensor)


def tail(name: str) -> str:
    """Return a tensor's name from the list that its first number counts in; without a number, its last two parts."""
    parts = name.split(".")
    first = next((position for position, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[max(first - 1, 0) :])


class Ranks:
    """The rank of each module, or its alpha, as PEFT finds it by a pattern, within a budget of steps for the pattern."""

    def __init__(self, patterns: Mapping[str, int | float], default: float, *, key: str = "rank_pattern") -> None:
        self._key = key
        try:
            self._values = ModuleValues(patterns, default, Budget(_PATTERN_STEPS))
        except ExpressionError as error:
            raise Verification(
                f"{key} has an expression that can't be used, since {error}; write module names and push again"
            ) from error

    def of(self, module: str) -> int | float:
        """Return a module's rank or alpha. Raises Verification if the patterns take too long."""
        try:
            return self._values.of(module)
        except BudgetError as error:
            raise Verification(
                f"{self._key} takes too long to try; replace the patterns with module names and push again"
            ) from error


#: What to do with an adapter whose vocabulary was resized and that lacks the embeddings of some tokens.
SAVE = (
    "save it again with save_pretrained(FOLDER, save_embedding_layers=True), or save the resized model, register it as a "
    "base and push over that"
)


def changed_vocabulary(weights: WeightFacts, base: BaseShapes) -> int | None:
    """Return the number of tokens for which an adapter has embeddings if it differs from the base's; None if it
    doesn't.

    Raises Verification if their numbers differ, if there are only the head's, or if a head that is not tied is missing.
    """
    if not base.known:
        return None
    changed: dict[str, int] = {}
    for tensor in weights.tensors():
        module, _, kind = unwrapped(base_parameter(tensor.name) or "").rpartition(".")
        if kind != "weight" or len(tensor.shape) != 2 or (last := module.rpartition(".")[2]) not in EMBEDDINGS:
            continue
        rows, dimension = tensor.shape
        shapes = [shape for shape in base.shapes(f"{module}.weight") if shape[1:] == [dimension]]
        if shapes and [rows, dimension] not in shapes and changed.setdefault(last, rows) != rows:
            raise Verification(f"the adapter has {module} for {rows} and for {changed[last]} tokens; {SAVE}")
    if not changed:
        return None
    heads = {name for name in HEADS for tensor in base.names if f".{tensor}".endswith(f".{name}.weight")}
    missing = sorted(heads - changed.keys()) or ([] if changed.keys() & set(INPUT_EMBEDDINGS) else ["the embeddings"])
    if missing or len(set(changed.values())) != 1:
        has = ", ".join(f"{name} for {rows} tokens" for name, rows in sorted(changed.items()))
        lacks = f", but not {' and '.join(missing)}" if missing else ""
        raise Verification(f"the vocabulary was resized: the adapter has {has}{lacks}; {SAVE}")
    return next(iter(changed.values()))


def grown_vocabulary(lora: LoraConfig, base: BaseShapes, *, tokenizer: bool) -> int | None:
    """Return how many rows a base's vocabulary needs for the tokens that an adapter adds and trains; None if it has them.

    `tokenizer` is whether one comes with the adapter: without one, tokens beyond the vocabulary are refused where their rows
    are looked at. Raises Verification if a new row is in none of the adapter's tensors.
    """
    said = lora.trainable_token_indices
    rows = max((shape[0] for name in base.embeddings for shape in base.shapes(f"{name}.weight")), default=0)
    if not tokenizer or not rows or highest_token(said) < rows:
        return None
    heads = {name for name in HEADS for tensor in base.names if f".{tensor}".endswith(f".{name}.weight")}
    has = {module.rpartition(".")[2] for module in said} if isinstance(said, dict) else set(INPUT_EMBEDDINGS)
    missing = missing_rows(said, rows=rows)
    if missing or (lora.task_type != "SEQ_CLS" and not heads <= has) or not has & set(INPUT_EMBEDDINGS):
        lacks = f"the row {min(missing.values())}" if missing else " and ".join(sorted(heads - has)) or "the embeddings"
        raise Verification(
            f"the adapter trains the token {highest_token(said)} of a larger vocabulary than the base's {rows}, and lacks {lacks}; train "
            "each new token's rows in the embeddings and in a head that is not tied to them"
        )
    return highest_token(said) + 1
