"""Pairs of answers, of which one becomes likelier relative to a reference's probabilities for both: DPO and IPO.

The reference is the base, or the version that is continued: the same model (`workers.pipelines.model.trained_whole`).
It sees the same batch through the same code, before the policy does: before training, log-ratios are exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT, example_batches, padded, token_losses
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.objective import Batch, HeldOut, Look, Objective, TokenLosses, Tokens
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


def answer_tokens(batch: Batch) -> Any:
    """Return how many tokens of each sequence are supervised, (sequences,)."""
    return (batch["labels"][:, 1:] != IGNORED).sum(dim=1)


def dpo(spec: TrainingSpec) -> Objective:
    """Return the objective of DPO (arXiv:2305.18290, equation 7): -log σ(β · (log-ratio of chosen - log-ratio of rejected)).

    A log-ratio is log π/π_ref of an answer, summed over its tokens; the loss is a mean over the pairs of a step.
    """
    return _compared("dpo", lambda margins: -torch.nn.functional.logsigmoid(spec.beta * margins), averaged=False)


def ipo(spec: TrainingSpec) -> Objective:
    """Return the objective of IPO (arXiv:2310.12036, equation 17): (log-ratio of chosen - log-ratio of rejected - 1/(2τ))²,
    with `beta` as τ.

    A log-ratio is log π/π_ref of an answer, averaged over its tokens as TRL does, where the paper sums; the loss is a mean
    over the pairs of a step.
    """
    return _compared("ipo", lambda margins: (margins - 1 / (2 * spec.beta)) ** 2, averaged=True)


def _compared(name: str, loss_of: Callable[[Any], Any], *, averaged: bool) -> Objective:
    """Return an objective whose loss of each pair follows from its margin, (pairs,)."""

    def loss(model: Any, batch: Batch, pairs: int, losses: TokenLosses) -> Any:
        ratios, _ = log_ratios(model, batch, losses)
        if averaged:
            ratios = ratios / answer_tokens(batch)
        return loss_of(ratios[::2] - ratios[1::2]).sum() / pairs

    def scores(look: Look) -> HeldOut:
        pairs: list[Pair] = []
        for batch in judged(look.model, look.examples, look.pad_id, look.rows, look.device, look.losses):
            pairs += batch
            look.done(len(pairs))
        margins = torch.tensor(
            [pair.margin_of_tokens if averaged else pair.margin for pair in pairs], dtype=torch.float64
        )
        each = loss_of(margins)
        found = {
            "loss": float(each.mean()),
            # Its margins are 0.
            **({"loss_parent": float(loss_of(torch.zeros_like(margins[:1])))} if look.reference == "parent" else {}),
            **preference_scores(pairs, look.reference),
        }
        return HeldOut(found, each.tolist(), [1.0] * len(pairs))

    return Objective(
        name,
        collate=collate,
        of_step=lambda model, batch, passes: len(batch["labels"]) // 2,
        loss=loss,
        scores=scores,
        logits=SFT.logits,
    )


#: How judged rows become batches.
_PAIRS = dpo(TrainingSpec())


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

    @property
    def margin_of_tokens(self) -> float:
        """The same of each answer's mean per token."""
        return self.chosen_ratio / self.chosen_tokens - self.rejected_ratio / self.rejected_tokens


def judged(
    model: Any, examples: Sequence[Example], pad_id: int, rows: int, device: Any, losses: TokenLosses = token_losses
) -> Iterator[list[Pair]]:
    """Yield a model's log-probabilities for rows, in batches of up to `rows` rows, the longest first."""
    for batch in example_batches(examples, _PAIRS, pad_id, rows, device, turns_at(model)):
        with torch.no_grad():
            ratios, reference = log_ratios(model, batch, losses)
        counts, found, said = answer_tokens(batch).tolist(), ratios.tolist(), reference.tolist()
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
