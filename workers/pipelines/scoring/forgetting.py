"""What an adapter changed besides its task: general texts, predicted with it and by the bare base."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workers.pipelines.data.batches import SFT, example_batches, said_logits, without_last
from workers.pipelines.data.divergence import HeldLogits, divergence, few_rows
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.fixed_texts import GENERAL_TEXTS, MOST_TOKENS
from workers.pipelines.data.objective import Batch
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded, words_of

#: Texts per forward pass, whatever the size of an evaluation's own batches, so that this doesn't affect the digits. All
#: 32 in one pass took 6 % less time than in two, and twice the memory for logits: with a vocabulary of 262,144, 0.7 GB.
_TOGETHER = 16


@dataclass(frozen=True)
class BareTexts:
    """The general texts, and a bare base's logits for them."""

    examples: Sequence[Example]
    pad_id: int
    #: Nats of each predicted token, all except the first of each text, by batch.
    losses: Sequence[Any]
    #: (tokens, vocabulary) of each batch.
    logits: HeldLogits

    @property
    def tokens(self) -> int:
        """The number of predicted tokens."""
        return sum(map(len, self.losses))


def read_bare(model: Any, tokenizer: Any, base: Path) -> BareTexts:
    """Run the bare base in the folder `base` on the general texts, tokenised by its tokenizer."""
    cut, words = longest_row(base, MOST_TOKENS), words_of(model)
    examples, encoder = [], Encoder(tokenizer)
    for text in GENERAL_TEXTS:
        ids = embedded(encoder.whole(text), words=words)[:cut]
        if len(ids) > 1:
            examples.append(Example(ids, [IGNORED, *ids[1:]], [], "", ""))
    held, pad_id = HeldLogits(), tokenizer.pad_token_id
    losses = [
        _bare_losses(model, batch, held) for batch in example_batches(examples, SFT, pad_id, _TOGETHER, model.device)
    ]
    return BareTexts(examples=examples, pad_id=pad_id, losses=losses, logits=held)


def general_scores(bare: BareTexts, model: Any | None) -> dict[str, float]:
    """Return the losses of an adapted model, None for the bare base itself, and of the bare base in nats per token, and
    KL(base ‖ base + adapter), the mean over the same tokens.

    Empty if one of them is not a number.
    """
    started = time.perf_counter()
    losses, kl = _numbers(bare.losses), [0.0]
    loss_base = _mean(losses, bare.tokens)
    if model is not None:
        losses = []
        batches = example_batches(bare.examples, SFT, bare.pad_id, _TOGETHER, model.device)
        for number, batch in enumerate(batches):
            token_losses, token_kl = _changed(bare, number, model, batch)
            losses += token_losses
            kl += token_kl
    metrics = {
        "general_loss": _mean(losses, bare.tokens),
        "general_loss_base": loss_base,
        "general_kl": _mean(kl, bare.tokens),
    }
    if not bare.tokens or not all(map(math.isfinite, metrics.values())):
        return {}
    # For similar predictions rounding may make it negative.
    metrics["general_kl"] = max(0.0, metrics["general_kl"])
    return {**metrics, "general_tokens": float(bare.tokens), "general_s": time.perf_counter() - started}


def _bare_losses(model: Any, batch: Batch, held: HeldLogits) -> Any:
    """Return the nats of each token of a batch, (tokens,) in float64 on the CPU; its logits are stored.

    Widened logits are processed a few rows at a time, and none of a batch are left when the next is read.
    """
    logits, targets = _logits(model, batch)
    held.append(logits)
    losses = [
        torch.nn.functional.cross_entropy(some.float(), right, reduction="none")
        for some, right in few_rows(logits, targets)
    ]
    return torch.cat(losses).double().cpu()


def _changed(bare: BareTexts, number: int, model: Any, batch: Batch) -> tuple[list[float], list[float]]:
    """Return the loss of each token of a batch with the adapter, and its divergence from the bare base, in nats."""
    logits, targets = _logits(model, batch)
    base_logits = bare.logits.read(number).to(logits.device)
    far = divergence(base_logits, logits)
    # ln Σeᶻ - z of the right token: the bare base's, and what the adapter added to both.
    losses = bare.losses[number] + far.normaliser - (_at(logits, targets) - _at(base_logits, targets))
    return losses.tolist(), far.kl.tolist()


def _numbers(batches: Sequence[Any]) -> list[float]:
    return [number for batch in batches for number in batch.tolist()]


def _mean(numbers: Sequence[float], count: int) -> float:
    """Return the mean; NaN if any is not a number."""
    return math.fsum(numbers) / max(count, 1) if all(map(math.isfinite, numbers)) else math.nan


def _at(logits: Any, targets: Any) -> Any:
    """Return the logit of each target, (tokens,) in float64 on the CPU."""
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double().cpu()


def _logits(model: Any, batch: Batch) -> tuple[Any, Any]:
    """Return the logits of a batch, (tokens, vocabulary) in the model's type, and these tokens, (tokens,)."""
    with torch.no_grad():
        logits, targets, _ = said_logits(model, without_last(batch))
    return logits, targets
