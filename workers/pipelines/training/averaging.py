"""The adapter of an optimiser that trains other weights than those that are its result: their average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from workers.pipelines.model.adapters import own_tensors
from workers.pipelines.training.loop import AdapterState, Shared


@contextmanager
def averaged(adapter: AdapterState) -> Iterator[None]:
    """Let the model have the weights that are the result, and afterwards those that are trained, to the last bit."""
    if not adapter.spec.optimizer.averages:
        yield
        return
    optimizer = adapter.optimizer
    trained = {name: parameter.detach().clone() for name, parameter in adapter.parameters.items()}
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        # `train` computes them from the average, which rounds.
        with torch.no_grad():
            for name, parameter in adapter.parameters.items():
                parameter.copy_(trained[name])


def result_of(shared: Shared, adapter: AdapterState) -> dict[str, Any]:
    """Return the adapter's tensors by PEFT's names: those of the model, or copies of their averages."""
    if not adapter.spec.optimizer.averages:
        return own_tensors(shared.model)
    with averaged(adapter):
        return {name: tensor.detach().clone() for name, tensor in own_tensors(shared.model).items()}
