"""Pairs of answers, of which one becomes likelier than the other without a reference: SimPO and ORPO.

Both compare log-probabilities averaged over the tokens of an answer, so that a longer answer isn't worse for its length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT, example_batches
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.objective import Batch, HeldOut, Look, Objective, Passes, TokenLosses
from workers.pipelines.data.preferences import collate
from workers.pipelines.model.rotary import turns_at

#: Mean log-probabilities of chosen and rejected answers to the loss of each pair, (pairs,) each.
PairLosses = Callable[[Any, Any], Any]


def simpo(spec: TrainingSpec) -> Objective:
    """Return the objective of SimPO (arXiv:2405.14734, equation 6): -log σ(β · (log π of chosen - log π of rejected) - γ).

    log π is averaged over the tokens of an answer; the loss is a mean over the pairs of a step.
    """

    def of_margins(chosen: Any, rejected: Any) -> Any:
        return -_log_sigmoid(spec.beta * (chosen - rejected) - spec.simpo_gamma)

    return _free("simpo", of_margins, texts=False)


def orpo(spec: TrainingSpec) -> Objective:
    """Return the objective of ORPO (arXiv:2403.07691, equation 6): the loss of the chosen texts - λ · log σ(log odds of
    chosen - log odds of rejected), with odds π / (1 - π) and `beta` as λ.

    The loss of the chosen texts is over the tokens of prompt and answer, a mean over those of a step, as the authors' code
    and TRL's have it. log π of the odds is averaged over the tokens of an answer alone, and their part is a mean over the
    pairs of a step.
    """

    def of_odds(chosen: Any, rejected: Any) -> Any:
        return -spec.beta * _log_sigmoid(chosen - rejected - (_log_of_rest(chosen) - _log_of_rest(rejected)))

    return _free("orpo", of_odds, texts=True)


def _log_sigmoid(values: Any) -> Any:
    return torch.nn.functional.logsigmoid(values)


def _log_of_rest(likelihoods: Any) -> Any:
    """Return log(1 - π) for log π; of an answer that is certain, as if it were nearly so, since it has no odds."""
    return torch.log(-torch.expm1(likelihoods.clamp(max=-torch.finfo(torch.float32).eps)))


class _Step(NamedTuple):
    """What a step's losses are divided by."""

    pairs: int
    #: Tokens of the chosen texts; None: these have no loss of their own.
    text_tokens: int | None


class _Likelihoods(NamedTuple):
    """Of sequences in pairs, in nats; the chosen one comes first."""

    #: log π of the answers, summed over their tokens, and how many these are, (2 · pairs,).
    answers: Any
    tokens: Any
    #: log π of the chosen texts, summed over their tokens, and how many these are, (pairs,); 0 where they have no loss.
    texts: Any
    text_tokens: Any

    @property
    def chosen(self) -> Any:
        """Mean log π of each chosen answer, (pairs,)."""
        return (self.answers / self.tokens)[::2]

    @property
    def rejected(self) -> Any:
        """Mean log π of each rejected answer, (pairs,)."""
        return (self.answers / self.tokens)[1::2]


def _free(name: str, losses_of: PairLosses, *, texts: bool) -> Objective:
    """Return an objective; with `texts`, the loss of the chosen texts is added."""

    def of_step(_model: Any, batch: Batch, _passes: Passes) -> _Step:
        learnt = _with_texts(batch)[:, 1:] != IGNORED
        return _Step(len(learnt) // 2, int(learnt[::2].sum()) if texts else None)

    def loss(model: Any, batch: Batch, step: _Step, losses: TokenLosses) -> Any:
        found = _likelihoods(model, batch, losses, texts=texts)
        share = losses_of(found.chosen, found.rejected).sum() / step.pairs
        return share if step.text_tokens is None else share - found.texts.sum() / step.text_tokens

    def scores(look: Look) -> HeldOut:
        parts = []
        for batch in example_batches(look.examples, made, look.pad_id, look.rows, look.device, turns_at(look.model)):
            with torch.no_grad():
                parts.append(_likelihoods(look.model, batch, look.losses, texts=texts))
            look.done(sum(len(part.texts) for part in parts))
        return _scores(_Likelihoods(*(torch.cat(each).double().cpu() for each in zip(*parts, strict=True))), losses_of)

    made = Objective(name, collate=collate, of_step=of_step, loss=loss, scores=scores, logits=SFT.logits)
    return made


def _with_texts(batch: Batch) -> Any:
    """Return the labels of a batch with those of the chosen texts' prompts, (2 · pairs, seq)."""
    labels = batch["labels"].clone()
    labels[::2] = batch["input_ids"][::2].masked_fill(batch["attention_mask"][::2] == 0, IGNORED)
    return labels


def _likelihoods(model: Any, batch: Batch, losses: TokenLosses, *, texts: bool) -> _Likelihoods:
    labels = _with_texts(batch) if texts else batch["labels"]
    learnt, answers = labels[:, 1:] != IGNORED, batch["labels"][:, 1:] != IGNORED
    each, _ = losses(model, {**batch, "labels": labels})
    # The losses are in the order of the tokens, row by row.
    found = -torch.zeros(learnt.shape, device=each.device).masked_scatter(learnt, each)
    return _Likelihoods(
        (found * answers).sum(dim=1), answers.sum(dim=1), found[::2].sum(dim=1), learnt[::2].sum(dim=1) * texts
    )


def _scores(found: _Likelihoods, losses_of: PairLosses) -> HeldOut:
    """Return the loss, how often and by how much in nats per token the chosen answers are the likelier ones, and the losses of
    both in nats per token.
    """
    margins, tokens = found.chosen - found.rejected, int(found.text_tokens.sum())
    each = losses_of(found.chosen, found.rejected)
    if tokens:
        # A text's share of the mean over the tokens of all.
        each = each - found.texts * len(each) / tokens
    scores = {
        "loss": float(each.mean()),
        "logp_accuracy": float((margins > 0).double().mean()),
        "logp_margin": float(margins.mean()),
        "chosen_loss": float(-found.answers[::2].sum() / found.tokens[::2].sum()),
        "rejected_loss": float(-found.answers[1::2].sum() / found.tokens[1::2].sum()),
    }
    return HeldOut(scores, each.tolist(), [1.0] * len(each))
