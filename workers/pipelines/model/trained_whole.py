"""Parameters of a base that are trained themselves: biases, and modules of which PEFT trains a copy.

They are held in float32, like the matrices of an adapter, so that small steps are not lost. Their modules compute with
them rounded to the base's precision: before the first step exactly like the base, and later like the saved adapter when
it is loaded over the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sdk.formats.adapter_files import base_parameter, unwrapped
from workers.pipelines.model.added_rows import restore_rows

#: The attributes in which a PeftModel keeps its base's own biases, by their names in the base, and the modules that round.
_BIASES, _ROUNDING = "adapterctl_biases", "adapterctl_rounding"


def widen_trained(model: Any) -> None:
    """Hold everything that is trained in a PeftModel in float32; results don't change."""
    rounding = []
    for name, module in model.named_modules():
        trained = {
            of: each for of, each in module.named_parameters(recurse=False) if each is not None and each.requires_grad
        }
        narrow = {of: each.dtype for of, each in trained.items() if each.dtype != torch.float32}
        for parameter in trained.values():
            parameter.data = parameter.data.float()
        # PEFT itself converts the types of LoRA's own modules and of rows of embeddings.
        if narrow and "lora_" not in name and not isinstance(module, torch.nn.ParameterDict):
            module.forward = _rounding(module, narrow)
            rounding.append(module)
    setattr(model, _ROUNDING, rounding)


def biases_of(model: Any) -> dict[str, Any]:
    """Return copies of a base's biases by name; PEFT changes them in place, and removing an adapter doesn't restore them."""
    return {name: each.detach().clone() for name, each in model.named_parameters() if name.endswith(".bias")}


def keep_biases(model: Any, biases: dict[str, Any]) -> None:
    """Store the result of `biases_of` the base with a PeftModel."""
    setattr(model, _BIASES, biases)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Make a PeftModel compute like its base, including biases."""
    trained = [(parameter, parameter.data) for parameter, _ in _with_own_bias(model)]
    try:
        for parameter, bias in _with_own_bias(model):
            parameter.data = bias
        with model.disable_adapter():
            yield
    finally:
        for parameter, bias in trained:
            parameter.data = bias


def restore_base(model: Any) -> None:
    """Restore the biases and rows of a PeftModel's base, and how its modules compute."""
    restore_rows(model.get_base_model())
    for parameter, bias in _with_own_bias(model):
        parameter.data = bias
    for module in getattr(model, _ROUNDING, []):
        module.__dict__.pop("forward", None)


def _with_own_bias(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each bias of the base within a PeftModel, and its value without the adapter."""
    kept: dict[str, Any] = getattr(model, _BIASES, {})
    for name, parameter in model.named_parameters() if kept else ():
        own = kept.get(unwrapped(base_parameter(name) or ""))
        if own is not None:
            yield parameter, own


def _rounding(module: Any, dtypes: dict[str, torch.dtype]) -> Callable[..., Any]:
    own = module.forward

    def forward(*given: Any, **named: Any) -> Any:
        kept = {of: module._parameters[of] for of in dtypes}
        try:
            for of, dtype in dtypes.items():
                module._parameters[of] = kept[of].to(dtype)
            return own(*given, **named)
        finally:
            module._parameters.update(kept)

    return forward


#: The attribute in which a PeftModel keeps its reference, by the names of its parameters.
_KEPT = "adapterctl_compared_with"


def compare_with_this(model: Any) -> None:
    """Keep a copy of everything that is trained in a PeftModel, as the reference of a preference training that continues
    a version. The reference is the model itself, so no second one is in memory.
    """
    kept = {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}
    setattr(model, _KEPT, kept)


@contextmanager
def as_reference(model: Any) -> Iterator[None]:
    """Make a PeftModel compute like its reference, or like the base if none was kept, without dropout on the adapter's
    input.
    """
    kept: dict[str, Any] | None = getattr(model, _KEPT, None)
    if kept is None:
        with without_adapter(model):
            yield
        return
    from peft.tuners.lora import LoraLayer

    trained = {name: (each, each.data) for name, each in model.named_parameters() if name in kept}
    dropping = [
        dropout
        for layer in model.modules()
        if isinstance(layer, LoraLayer)
        for dropout in layer.lora_dropout.values()
        if dropout.training
    ]
    try:
        for name, (parameter, _) in trained.items():
            parameter.data = kept[name]
        for dropout in dropping:
            dropout.eval()
        yield
    finally:
        for parameter, data in trained.values():
            parameter.data = data
        for dropout in dropping:
            dropout.train()
