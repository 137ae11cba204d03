"""What a folder's tensors have that its configuration, or its base, doesn't mention: only names and shapes are read, no values.

A library ignores a tensor that nobody asked for, and leaves a module unchanged if its tensor is missing: the adapter
that it loads from such a folder is not the one that was trained. The registry's admission refuses these when they are
pushed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from sdk.errors import InvalidBase
from sdk.formats.adapter_files import base_module, base_parameter, unwrapped, variant_setting
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues, Targets
from sdk.lora.adapter import AdapterError, LoraModule, SavedModules, grouped, times
from sdk.lora.compatibility.answers import Verdict
from sdk.lora.compatibility.facts import EMBEDDINGS
from sdk.lora.experts import OwnedParameters
from sdk.lora.gguf_adapters import text_module
from sdk.lora.gguf_models import GgufModel, adapted_model
from sdk.lora.linear_modules import is_text
from sdk.lora.tensors import Tensor
from sdk.schemas.lora_config import LoraConfig

Modules = Mapping[str, LoraModule[Tensor]]

_PATTERN_STEPS = 10_000_000
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.([0-9]{1,6})\.")
#: The keys of configs for the number of layers; a model of two halves has one for each.
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers", "encoder_layers")
_TOKENS = "trainable_tokens_delta"


def contradiction(
    tensors: Iterable[Tensor], config: Mapping[str, Any], lora: LoraConfig, base_config: Mapping[str, Any] | None
) -> tuple[Verdict, str] | None:
    """Return the first fault, as a clause, and whether it decides the verdict; None if the tensors are as described.

    The values of `config` must have the types that PEFT writes. A is (r, in), and B (out, r).
    """
    try:
        modules, whole = grouped(tensors)
    except AdapterError as error:
        return Verdict.NO, f"in its weights {error}"
    if not modules:
        return Verdict.NO, "its weights have no A and B at all"
    try:
        found = next(
            chain(
                _unasked(whole, config, lora),
                _of_modules(modules, config, lora),
                _beyond_base(modules, base_config),
            ),
            None,
        )
    except (ExpressionError, BudgetError) as error:
        return Verdict.UNKNOWN, f"its configuration has patterns that can't be tried ({error})"
    return None if found is None else (Verdict.NO, found)


def _unasked(names: Iterable[str], config: Mapping[str, Any], lora: LoraConfig) -> Iterator[str]:
    """Find the tensors that are neither A nor B, and that no setting asks for."""
    saved = SavedModules(lora.modules_to_save)
    for name in names:
        setting = variant_setting(name)
        parameter = unwrapped(base_parameter(name) or "")
        module, _, last = parameter.rpartition(".")
        asked = (
            (setting is not None and bool(config.get(setting)))
            or saved.have(module)
            or (lora.bias != "none" and last == "bias" and bool(module))
            or (last == _TOKENS and bool(lora.trainable_token_indices))
            # PEFT saves resized embeddings without being asked; these have a rule of their own.
            or (last == "weight" and module.rpartition(".")[2] in EMBEDDINGS)
        )
        if not asked:
            yield f"its weights have {_shown(name)}, which its configuration does not ask for"


def _of_modules(modules: Modules, config: Mapping[str, Any], lora: LoraConfig) -> Iterator[str]:
    budget = Budget(_PATTERN_STEPS)
    # PEFT resolves this word itself; it isn't an expression.
    targets = None if config.get("target_modules") == "all-linear" else Targets(config, budget)
    ranks = ModuleValues(config.get("rank_pattern") or {}, lora.rank, budget)
    owned = OwnedParameters(lora.target_parameters)
    for name, module in sorted(modules.items()):
        plain = base_module(name)
        named = _shown(name)
        meant = targets is None or targets.means(plain)
        stacked = bool(owned.of(plain))
        if not meant and not stacked:
            yield f"its weights adapt {named}, which is none of its target modules"
        yield from (f"{named} {said}" for said in _of_parts(module, lora))
        a, b = (half.shape for half in module.pair())
        if len(a) != 2 or len(b) != 2:
            continue
        if a[0] != b[1]:
            yield f"{named} has A of {times(a)} and B of {times(b)}, which have no product"
        if meant and not stacked and a[0] != (rank := ranks.of(plain)):
            yield f"{named} has A and B of the rank {a[0]}, and its configuration says {rank}"


def _of_parts(module: LoraModule[Tensor], lora: LoraConfig) -> Iterator[str]:
    """Find tensors that a module lacks or has too many of."""
    parts = module.parts
    try:
        module.pair()
    except AdapterError as error:
        yield error.reason
    for part, setting, asked in (
        ("magnitude_vector", "use_dora", lora.use_dora),
        ("B.bias", "lora_bias", lora.lora_bias),
    ):
        if part in parts and not asked:
            yield f"has lora_{part}, and its configuration does not say {setting}"
        if asked and part not in parts and "A" in parts:
            yield f"has no lora_{part}, and its configuration says {setting}"


def _beyond_base(modules: Modules, config: Mapping[str, Any] | None) -> Iterator[str]:
    """Find modules that the base doesn't have, or has in another shape, as far as its config tells."""
    if not config:
        return
    inner = config.get("text_config")
    text = {**config, **(inner if isinstance(inner, Mapping) else {})}
    layers = max((text[key] for key in _LAYER_COUNTS if type(text.get(key)) is int), default=None)
    model = _dimensions(config)
    for name, module in sorted(modules.items()):
        plain = base_module(name)
        found = _LAYER.search(plain)
        if layers is not None and found and is_text(plain) and int(found[1]) >= layers:
            yield f"its weights adapt {_shown(plain)}, and the base has {layers} layers"
        kind = text_module(plain)
        if model is None or kind is None:
            continue
        out, into = model.shape_of(kind)
        a, b = (half.shape for half in module.pair())
        is_for = (a[-1], b[0]) if module.embedding else (b[0], a[-1])
        # Embeddings with another number of tokens have a rule of their own.
        if kind not in EMBEDDINGS and is_for != (out, into):
            yield f"{_shown(plain)} is adapted as one of {times(is_for)}, and the base's is {out}×{into}"


def _dimensions(config: Mapping[str, Any]) -> GgufModel | None:
    try:
        return adapted_model(config)
    except InvalidBase:
        return None


def _shown(name: str) -> str:
    shown = name if name.isascii() and name.isprintable() else ascii(name)
    return shown if len(shown) <= 120 else f"{shown[:119]}…"
