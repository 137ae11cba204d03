"""What a preference training compares its model with: the base, or the version that it continues.

Either is the model itself, so no second one is in memory: without its adapter, or with the version's matrices instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.lora import LoraLayer

from workers.pipelines.model.trained_whole import without_adapter

#: The attribute in which a PeftModel keeps its reference, by the names of its parameters.
_KEPT = "adapterctl_compared_with"


def compare_with_this(model: Any) -> None:
    """Keep a copy of everything that is trained in a PeftModel, as the reference for later."""
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
