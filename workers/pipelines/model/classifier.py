"""A base as a classifier: transformers' model for sequence classification, with a head of its own.

The head is in float32 over a base of any precision, like the matrices of an adapter: both are trained. PEFT trains a
copy of it (`modules_to_save`), so a base without its adapter has the head with which training began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdk.formats.base_files import INDEX_FILE, SINGLE_FILE, read_index, weight_map
from sdk.lora.tensors import open_file
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: The models' default standard deviation for initialising linear modules.
_DEVIATION = 0.02
#: The one module of an encoder that mask filling doesn't use: many bases have no weights for it.
_POOLER = "pooler"


@dataclass(frozen=True)
class Classes:
    """The labels, and the token that pads rows: a decoder reads its answer from the last token before the padding."""

    names: tuple[str, ...]
    pad_token_id: int
    #: The seed of the head's initial weights.
    seed: int = 0


def configure(config: Any, classes: Classes) -> Any:
    """Put the labels into a config; return it."""
    config.num_labels = len(classes.names)
    config.id2label = dict(enumerate(classes.names))
    config.label2id = {name: number for number, name in enumerate(classes.names)}
    config.problem_type = "single_label_classification"
    config.get_text_config().pad_token_id = classes.pad_token_id
    return config


def head_modules(model: Any, base: Path) -> list[str]:
    """Return the full names of the modules that the task adds, which the base in a folder doesn't use or has no weights for."""
    found = [
        name
        for name, module in model.named_children()
        if module is not model.base_model and next(module.parameters(), None) is not None
    ]
    pooler = f"{model.base_model_prefix}.{_POOLER}"
    if any(name == pooler for name, _ in model.named_modules()):
        stored = _stored_names(base)
        found += [] if any(f".{_POOLER}." in f".{name}" for name in stored) else [pooler]
    return sorted(found)


def is_in_head(name: str, head: Sequence[str]) -> bool:
    """Whether a module or parameter is one of the head's modules, or within one."""
    return any(f"{name}.".startswith(f"{module}.") for module in head)


def start_head(model: Any, head: Sequence[str], classes: Classes, missing: Sequence[str]) -> None:
    """Initialise the head's weights in float32, from the seed alone.

    `missing` are the parameters without values in the base's files. Raises PipelineError if parameters outside the head
    are missing.
    """
    outside = sorted(name for name in missing if not is_in_head(name, head))
    if outside:
        raise PipelineError(
            FailureReason.BASE,
            f"The base's files lack {len(outside)} of its model's tensors (first: {outside[0]}), which would be random;"
            " save the base again with all of its weights.",
        )
    generator = torch.Generator().manual_seed(classes.seed)
    deviation = float(getattr(model.config, "initializer_range", None) or _DEVIATION)
    for name, module in model.named_modules():
        if not is_in_head(name, head):
            continue
        for of, parameter in module.named_parameters(recurse=False):
            drawn = torch.empty(parameter.shape)
            if parameter.dim() > 1:
                drawn.normal_(0.0, deviation, generator=generator)
            else:
                # Biases start at zero, and the scales of a norm at one.
                drawn.fill_(1.0 if of == "weight" else 0.0)
            parameter.data = drawn.to(parameter.device)
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(_as_its_weights)


def _as_its_weights(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Called by torch before a module of the head: inputs from a 16-bit base are widened."""
    dtype = next(module.parameters(recurse=False)).dtype
    return tuple(
        value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value for value in inputs
    )


def _stored_names(base: Path) -> list[str]:
    """Return the names of the tensors in a base's files; none if they can't be read, which loading will report."""
    try:
        if (base / INDEX_FILE).is_file():
            return list(weight_map(read_index((base / INDEX_FILE).read_bytes())))
        return list(open_file(base / SINGLE_FILE, any_dtype=True).header.shapes())
    except (OSError, ValueError):
        return []
