"""Copies of a model's modules that share its weights.

PEFT puts its wrappers in the place of a model's modules, so adapters that can't be beside others get a tree of modules
of their own. The weights in it are the base's, except those that the adapter changes, which are copied first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any


def tree_of(model: Any, own: Callable[[str], bool] = lambda name: False) -> Any:
    """Return a copy of a model whose parameters are the model's own tensors, except those that `own` names, which are copied.

    Buffers are copied: some hold what the model saw last. A tensor that has several names, as a tied embedding, still
    has them all; it is copied if `own` is true for any.
    """
    names: dict[int, list[str]] = {}
    held: dict[int, Any] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        held[id(parameter)] = parameter
    shared = {key: each for key, each in held.items() if not any(map(own, names[key]))}
    return copy.deepcopy(model, shared)


def own_bytes(model: Any, own: Callable[[str], bool]) -> int:
    """Return the size of what `tree_of` would copy."""
    return sum(each.numel() * each.element_size() for name, each in model.named_parameters() if own(name))


class Untouched:
    """How a model's weights were, to see later whether anything wrote to them."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = self._state()

    def holds(self) -> bool:
        """Whether the weights are those of then, and nothing was written to them."""
        return self._state() == self._before

    def _state(self) -> list[tuple[str, int, int]]:
        return [(name, each.data_ptr(), each._version) for name, each in self._model.named_parameters()]
