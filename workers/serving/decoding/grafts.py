"""An adapter that PEFT has loaded into one tree of modules, put into another one beside its neighbours.

PEFT takes half a second of processor to wrap 210 modules, and to do so in the tree that decodes would hold up whoever is answered
there. So it loads each adapter once, into a tree of the adapter's own, and what it made is put into the other: the same matrices, and the
same settings of each wrapper.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

#: PEFT's name for the only adapter of a model.
ALONE = "default"


class GraftRefused(Exception):  # noqa: N818 - it reads as what happened
    """PEFT has wrapped the two trees otherwise."""


def graft(source: Any, onto: Any, label: str) -> None:
    """Put the adapter of one model's wrappers into another's, under a label without dots; both have the same base.

    Nothing of the source is changed, and both share the adapter's matrices. Raises GraftRefused, and then `cut` follows.
    """
    for name, wrapper in _wrappers(source):
        parent, _, child = name.rpartition(".")
        holder = onto.get_submodule(parent)
        module = getattr(holder, child)
        if not _is_wrapper(module):
            module = _empty(wrapper, module)
            setattr(holder, child, module)
        if type(module) is not type(wrapper):
            raise GraftRefused(f"{name} is wrapped as {type(module).__name__} and {type(wrapper).__name__}")
        for of in _per_adapter(wrapper):
            held = getattr(wrapper, of)
            if ALONE in held:
                getattr(module, of)[label] = held[ALONE]


def cut(model: Any, label: str) -> None:
    """Take an adapter out of a model's wrappers, which stay."""
    for _, wrapper in _wrappers(model):
        for of in _per_adapter(wrapper):
            held = getattr(wrapper, of)
            if label in held:
                del held[label]


def matrices_of(model: Any) -> Iterator[tuple[Any, str | None, Any]]:
    """Yield the parameters of a model's only adapter: a table of a wrapper, the parameter's name in what the table has for the
    adapter, None if that is the parameter itself, and the parameter.
    """
    for _, wrapper in _wrappers(model):
        for of in wrapper.adapter_layer_names:
            table = getattr(wrapper, of)
            if ALONE not in table:
                continue
            held = table[ALONE]
            if isinstance(held, torch.nn.Module):
                yield from ((table, name, parameter) for name, parameter in held.named_parameters())
            else:
                yield table, None, held


def _wrappers(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if _is_wrapper(module)]


def _is_wrapper(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _per_adapter(wrapper: Any) -> tuple[str, ...]:
    """Return the names of what a wrapper holds for each adapter."""
    return (*wrapper.adapter_layer_names, *wrapper.other_param_names, "lora_variant")


def _empty(wrapper: Any, module: Any) -> Any:
    """Return a wrapper of the same class and settings around another module, without an adapter."""
    made = copy.copy(wrapper)
    # Torch's copy has the original's own tables of modules, parameters and hooks.
    made.__dict__ = {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value
        for name, value in wrapper.__dict__.items()
    }
    for of in _per_adapter(wrapper):
        setattr(made, of, type(getattr(wrapper, of))())
    # Which one answers is chosen by row.
    made.set_adapter([])
    made.base_layer = module
    return made
