"""Rows of embeddings and heads for tokens that a base's vocabulary lacks: they begin at the mean of the base's own rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: The attribute in which a base keeps its own rows where an adapter's tokens began.
_OWN = "adapterctl_rows"
#: How many rows are widened at once.
_TOGETHER = 4096


def start_rows(model: Any, ids: Sequence[int]) -> None:
    """Put the mean of a base's rows where tokens are added, in the input embedding and in a head that is not tied to it.

    The vocabulary grows if it has too few rows; `restore_rows` undoes what was put into rows that were there. Raises
    PipelineError ("spec") for a head whose rows can't be trained one by one.
    """
    means = [mean_row(module.weight) for module in _with_rows(model)]
    kept = []
    before = len(model.get_input_embeddings().weight)
    grow(model, max(ids) + 1)
    for module, mean in zip(_with_rows(model), means, strict=True):
        weight = module.weight
        own = torch.tensor([token for token in ids if token < before], dtype=torch.int64, device=weight.device)
        with torch.no_grad():
            kept.append((weight, own, weight[own].clone()))
            weight[own] = mean.to(weight)
    setattr(model, _OWN, kept)


def restore_rows(model: Any) -> None:
    """Give a base its own rows back, where tokens began at the mean."""
    for weight, own, rows in getattr(model, _OWN, []):
        with torch.no_grad():
            weight[own] = rows


def grow(model: Any, rows: int) -> None:
    """Give a vocabulary as many rows, if it has fewer; new ones are the mean of the others."""
    before = len(model.get_input_embeddings().weight)
    if rows <= before:
        return
    meta = model.get_input_embeddings().weight.is_meta
    means = [] if meta else [mean_row(module.weight) for module in _with_rows(model)]
    model.resize_token_embeddings(rows, mean_resizing=False)
    for module, mean in zip(_with_rows(model), means, strict=not meta):
        module.weight.requires_grad_(False)
        module.weight[before:] = mean.to(module.weight)


def mean_row(weight: Any) -> Any:
    """Return the mean of the rows of (tokens, dimension), (dimension,) in float64."""
    if not weight.is_floating_point():
        raise PipelineError(
            FailureReason.SPEC,
            "The base holds its head or its embedding quantised, so rows for added tokens can't be trained in it; merge the tokens into a"
            " wide base first.",
        )
    with torch.no_grad():
        total = sum(part.double().sum(0) for part in weight.detach().split(_TOGETHER))
    return total / len(weight)


def _with_rows(model: Any) -> list[Any]:
    """Return the input embedding, and a head with rows of its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
