"""The loss of a step, as the training loop computes it from an objective."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from workers.pipelines.data.batches import micro_batches, token_losses, tokens_of_example
from workers.pipelines.data.examples import Example
from workers.pipelines.data.objective import Batch, Objective, Passes, TokenLosses


def batch_of(objective: Objective, examples: list[Example], pad_id: int = 0) -> Batch:
    """All rows as one batch."""
    return objective.collate([tokens_of_example(one) for one in examples], pad_id)


def step_loss(
    objective: Objective,
    model: Any,
    batch: Batch,
    *,
    rows: int | None = None,
    losses: TokenLosses = token_losses,
    seed: int = 0,
) -> Any:
    """The mean loss of a step, computed in parts of up to `rows` rows, with its graph."""

    def parts(whole: Batch, sequences: int) -> Iterator[Batch]:
        return micro_batches(whole, rows or len(whole["labels"]), None, sequences)

    step = objective.of_step(model, batch, Passes(parts, losses, seed))
    found = [objective.loss(model, part, step, losses) for part in parts(batch, objective.sequences)]
    return torch.stack(found).sum()
