"""A model without its weights, from the config in a folder: how they are packed according to it, the names of its modules, and the
shapes of its parameters.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from sdk.formats.base_files import CONFIG_FILE
from sdk.lora.architectures import is_encoder, no_next_token
from sdk.lora.stored_quantization import StoredQuantizationError, stored_recipe
from sdk.lora.tensors import open_file
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.classifier import Classes, configure, head_modules, is_in_head
from workers.pipelines.model.references import require_self_contained

#: Implementations of attention in torch itself; for others transformers may fetch code.
_OWN_ATTENTION = ("eager", "sdpa")
#: What a config counts of which a library makes one after the other, in memory, and more of them than any model has.
_COUNTED = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?|experts)")
_MOST_COUNTED = 10_000
_UNREADABLE = f"The base's {CONFIG_FILE} can't be read ({{first}}); check its folder."


def read_packing(base: Path) -> QuantizationRecipe | None:
    """Return how a base stored in 4 bits is packed. Raises PipelineError ("base") for bases that are quantised otherwise."""
    require_self_contained(base)
    with named(FailureReason.BASE, _UNREADABLE, OSError, ValueError):
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    with stored_quantization_named():
        return stored_recipe(config) and stored_recipe(config, _tensor_names(base))


def _tensor_names(base: Path) -> Iterator[str]:
    for path in sorted(base.glob("*.safetensors")):
        yield from open_file(path, any_dtype=True).header.shapes()


@contextlib.contextmanager
def stored_quantization_named() -> Iterator[None]:
    """Return a PipelineError that says what can't be done over a base because of its quantisation."""
    try:
        yield
    except StoredQuantizationError as error:
        raise PipelineError(
            FailureReason.BASE if error.param == "base" else FailureReason.SPEC, f"The base {error}."
        ) from error


def _require_countable(config: Any) -> None:
    """Raise ValueError for a config, or a part of one, that counts more layers or experts than memory has room for."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            for name, value in part.items():
                waiting.append(value)
                if isinstance(value, int) and value > _MOST_COUNTED and _COUNTED.fullmatch(str(name)):
                    raise ValueError(f"{name[:40]} is {value}, and no model has more than {_MOST_COUNTED:,}")


def read_config(base: Path) -> Any:
    """Return the config of a base, with an implementation of attention that is chosen here, not by the base."""
    require_self_contained(base)
    with named(FailureReason.BASE, _UNREADABLE, OSError, ValueError, KeyError):
        _require_countable(json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig")))
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    # None lets the library choose what the model supports, also in the parts of a config.
    said = config._attn_implementation
    config._attn_implementation = said if said in _OWN_ATTENTION else None
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = None
    return config


@dataclass(frozen=True)
class Blueprint:
    """What a config says about a model without any weights: names of its linear modules and its size."""

    config: Any
    #: Full names without the output head.
    linear_names: list[str]
    #: The modules of a classification that the base doesn't have; empty for a causal language model.
    head: list[str]
    #: Full names of parameters of (experts, …, …), which don't have a module of their own.
    stacked_names: list[str]
    #: The linear modules that store their weight transposed, (in, out).
    conv1d_names: frozenset[str]
    parameters: int
    #: How the base is packed, if it is stored in 4 bits.
    packing: QuantizationRecipe | None
    #: The shape of each parameter by its full name; tied ones occur once.
    shapes: Mapping[str, Sequence[int]]
    #: Whether the output head is tied to the input embedding.
    tied: bool
    #: The full name of the input embedding, and the number of its rows.
    embedding: str
    words: int
    #: The full name of the output head; None for a classifier.
    output: str | None


def read_blueprint(base: Path, classes: Classes | None = None) -> Blueprint:
    """Build the model of a folder's config without memory for its weights, to inspect its modules.

    With `classes` it is a classifier for these. Raises PipelineError ("base") if the folder has no config of such a
    model, or an encoder's although it should be causal, or one of a base with an unsupported quantisation.
    """
    packing = read_packing(base)
    model = blank_model(base, classes)
    config = model.config
    output = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    names = {module: name for name, module in model.named_modules()}
    head = [] if classes is None else head_modules(model, base)
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not output and not is_in_head(name, head)
    }
    return Blueprint(
        config=config,
        linear_names=sorted(linear),
        head=head,
        stacked_names=sorted(_stacked(model)),
        conv1d_names=frozenset(name for name, module in linear.items() if isinstance(module, Conv1D)),
        parameters=model.num_parameters(),
        packing=packing,
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        tied=output is not None and output.weight is embedding.weight,
        embedding=names[embedding],
        words=len(embedding.weight),
        output=names.get(output),
    )


def blank_model(base: Path, classes: Classes | None = None) -> Any:
    """Return the model of a folder's config without memory for its weights, tied as it says. Raises PipelineError ("base")."""
    config = read_config(base)
    if classes is not None:
        configure(config, classes)
    elif is_encoder(config.to_dict()):
        raise PipelineError(FailureReason.BASE, f"The base can't be used for that: {no_next_token(config.model_type)}.")
    return blank_model_of(config, classes)


def blank_model_of(config: Any, classes: Classes | None = None) -> Any:
    """Return the model of a config without memory for its weights, tied as it says. Raises PipelineError ("base")."""
    what = "causal language model" if classes is None else "model for sequence classification"
    kind = getattr(config, "model_type", "this config")
    said = f"No {what} is known for {kind!r} ({{first}}); choose another base."
    with (
        named(FailureReason.BASE, said, ValueError, KeyError, TypeError),
        torch.device("meta"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        model = maker_of(config, classes).from_config(config, trust_remote_code=False)
    model.tie_weights()
    return model


def _stacked(model: Any) -> Iterator[str]:
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            yield from (f"{name}.{own}" for own, each in module.named_parameters(recurse=False) if each.ndim == 3)


def maker_of(config: Any, classes: Classes | None) -> Any:
    """Return the class that makes a model from a config: a classifier, a causal model, or one with several parts that
    contains one.
    """
    if classes is not None:
        return AutoModelForSequenceClassification
    kind = type(config)
    several = kind not in MODEL_FOR_CAUSAL_LM_MAPPING and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if several else AutoModelForCausalLM
