"""Copies of a model's modules that share its weights.

PEFT puts its wrappers in the place of a model's modules, so adapters that can't be beside others get a tree of modules
of their own. Its parameters are tensors of their own over the base's memory, so that one which PEFT or torch lets point
elsewhere leaves the base's alone; what an adapter writes to is copied first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch


def tree_of(model: Any, own: Callable[[str], bool] = lambda name: False) -> Any:
    """Return a copy of a model over the model's own weights, except for copies of those that `own` names.

    Buffers are copied: some hold what the model saw last. A tensor that has several names, as a tied embedding, still
    has them all; it is copied if `own` is true for any.
    """
    names: dict[int, list[str]] = {}
    held: dict[int, Any] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        held[id(parameter)] = parameter
    return copy.deepcopy(model, {key: _over(each) for key, each in held.items() if not any(map(own, names[key]))})


def _over(parameter: Any) -> Any:
    """Return another parameter over the same memory; packed ones, which have more than their numbers, as they are."""
    if type(parameter) is not torch.nn.Parameter:
        return parameter
    return torch.nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)


def own_bytes(model: Any, own: Callable[[str], bool]) -> int:
    """Return the size of what `tree_of` would copy."""
    return sum(each.numel() * each.element_size() for name, each in model.named_parameters() if own(name))


class Untouched:
    """The weights that a tree shares with its model, to see later whether anything wrote to them."""

    def __init__(self, model: Any, tree: Any) -> None:
        places = {each.data_ptr() for each in model.parameters()}
        self._shared = [
            (each, each.data_ptr(), each._version) for each in tree.parameters() if each.data_ptr() in places
        ]

    def holds(self) -> bool:
        """Whether nothing was written to them by the tree. A parameter that points elsewhere by now may be written to."""
        return all(each.data_ptr() != place or each._version == version for each, place, version in self._shared)
