"""Direct preference optimisation (arXiv:2305.18290): one of two answers becomes likelier, relative to a reference's
probabilities for both.

The reference is the base, or the version that is continued: the same model (`workers.pipelines.model.trained_whole`).
It sees the same batch through the same code, before the policy does: before training, log-ratios are exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from sdk.formats.objectives import SEQUENCES
from workers.pipelines.data.batches import (
    SFT,
    Batch,
    Objective,
    TokenLosses,
    Tokens,
    example_batches,
    padded,
    token_losses,
)
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.model.rotary import turns_at
from workers.pipelines.model.trained_whole import as_reference


def collate(rows: Sequence[Tokens], pad_id: int) -> Batch:
    """Return a batch of pairs, (2 · pairs, seq): each chosen answer before its rejected one, the pair with the longest first."""
    pairs = [rows[start : start + 2] for start in range(0, len(rows), 2)]
    pairs.sort(key=lambda pair: -max(len(each["input_ids"]) for each in pair))
    return padded([each for pair in pairs for each in pair], pad_id)


def log_likelihoods(model: Any, batch: Batch, losses: TokenLosses = token_losses) -> Any:
    """Return log π of each sequence's supervised tokens, (sequences,), in nats and float32, with its graph."""
    each, kept = losses(model, batch)
    return -torch.zeros(kept.shape, device=each.device).masked_scatter(kept, each).sum(dim=1)


def log_ratios(model: Any, batch: Batch, losses: TokenLosses = token_losses) -> tuple[Any, Any]:
    """Return log π/π_ref of each sequence with its graph, and log π_ref, (sequences,) each."""
    with torch.no_grad(), as_reference(model):
        reference = log_likelihoods(model, batch, losses)
    return log_likelihoods(model, batch, losses) - reference, reference


def preference(beta: float) -> Objective:
    """Return the objective -log σ(β · (log-ratio of chosen - log-ratio of rejected)), a mean over pairs."""

    def loss_sum(model: Any, batch: Batch, losses: TokenLosses = token_losses) -> Any:
        ratios, _ = log_ratios(model, batch, losses)
        return -torch.nn.functional.logsigmoid(beta * (ratios[::2] - ratios[1::2])).sum()

    return Objective(
        "dpo",
        task_type="CAUSAL_LM",
        collate=collate,
        counted=lambda batch: len(batch["labels"]) // 2,
        loss_sum=loss_sum,
        logits=SFT.logits,
        sequences=SEQUENCES["dpo"],
    )


#: The losses of judged rows are computed afterwards.
_PAIRS = preference(1.0)


class Pair(NamedTuple):
    """A model's log-probabilities for one row, in nats."""

    #: log π_ref of the two answers, and log π/π_ref.
    chosen: float
    rejected: float
    chosen_ratio: float
    rejected_ratio: float
    #: Number of supervised tokens in each.
    chosen_tokens: int
    rejected_tokens: int

    @property
    def margin(self) -> float:
        """How much more the chosen answer gained than the rejected one."""
        return self.chosen_ratio - self.rejected_ratio


def judged(
    model: Any, examples: Sequence[Example], pad_id: int, rows: int, device: Any, losses: TokenLosses = token_losses
) -> Iterator[list[Pair]]:
    """Yield a model's log-probabilities for rows, in batches of up to `rows` rows, the longest first."""
    for batch in example_batches(examples, _PAIRS, pad_id, rows, device, turns_at(model)):
        with torch.no_grad():
            ratios, reference = log_ratios(model, batch, losses)
        counts = (batch["labels"][:, 1:] != IGNORED).sum(dim=1).tolist()
        found, said = ratios.tolist(), reference.tolist()
        yield [
            Pair(said[at], said[at + 1], found[at], found[at + 1], counts[at], counts[at + 1])
            for at in range(0, len(found), 2)
        ]


def preference_scores(found: Sequence[Pair], reference: str = "base") -> dict[str, float]:
    """Return how often, and by how much in nats per row, the chosen answers gained more than the rejected ones, and the
    losses of both, in nats per token, for the model and for its `reference`.
    """
    chosen, rejected = (
        sum(each) for each in zip(*((pair.chosen_tokens, pair.rejected_tokens) for pair in found), strict=True)
    )
    return {
        "preference_accuracy": sum(pair.margin > 0 for pair in found) / len(found),
        "preference_margin": _sum(pair.margin for pair in found) / len(found),
        "chosen_loss": -_sum(pair.chosen + pair.chosen_ratio for pair in found) / chosen,
        f"chosen_loss_{reference}": -_sum(pair.chosen for pair in found) / chosen,
        "rejected_loss": -_sum(pair.rejected + pair.rejected_ratio for pair in found) / rejected,
        f"rejected_loss_{reference}": -_sum(pair.rejected for pair in found) / rejected,
    }


def _sum(numbers: Iterable[float]) -> float:
    """Return the exact sum, rounded once; if not all values are finite, the plain sum: infinity or NaN."""
    found = list(numbers)
    return math.fsum(found) if all(map(math.isfinite, found)) else sum(found)


def preference_loss(found: Sequence[Pair], beta: float) -> float:
    """Return the mean of -log σ(β · margin) over rows, in nats."""
    scaled = [beta * pair.margin for pair in found]
    return math.fsum(math.log1p(math.exp(-abs(each))) + max(-each, 0.0) for each in scaled) / len(scaled)
