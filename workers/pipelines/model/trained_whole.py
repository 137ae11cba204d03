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
    """Restore the biases of a PeftModel's base, and how its modules compute."""
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
