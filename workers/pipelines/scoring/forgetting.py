"""What an adapter changed beside what it was trained for: general texts, predicted with it and by the bare base."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workers.pipelines.data.batches import SFT, example_batches, supervised_logits
from workers.pipelines.data.divergence import kl_sum
from workers.pipelines.data.general_texts import GENERAL_TEXTS, MOST_TOKENS
from workers.pipelines.data.tokenise import IGNORED, Example, longest_row
from workers.pipelines.data.vocabulary import embedded, words_of

#: Texts in one forward pass, whatever the size of an evaluation's own batches, so that it moves no digit.
_TOGETHER = 8


@dataclass(frozen=True)
class BareTexts:
    """The general texts, and what a bare base says of them."""

    examples: Sequence[Example]
    pad_id: int
    #: Tokens that are predicted, all but the first of each text.
    tokens: int
    #: Nats a token.
    loss: float
    #: (tokens, vocabulary) of each batch, with all digits that the model gave them, in the machine's memory.
    logits: Sequence[Any]


def read_bare(model: Any, tokenizer: Any, base: Path) -> BareTexts:
    """Let the bare base in the folder `base` read the general texts, tokenised as its tokenizer does by itself."""
    cut, words = longest_row(base, MOST_TOKENS), words_of(model)
    examples = []
    for text in GENERAL_TEXTS:
        ids = embedded(tokenizer(text)["input_ids"], words=words)[:cut]
        if len(ids) > 1:
            examples.append(Example(ids, [IGNORED, *ids[1:]], [], "", ""))
    read = list(_read(model, examples, tokenizer.pad_token_id))
    losses = [loss for _, part in read for loss in part]
    return BareTexts(
        examples=examples,
        pad_id=tokenizer.pad_token_id,
        tokens=len(losses),
        loss=math.fsum(losses) / max(len(losses), 1),
        logits=[_narrow(logits).cpu() for logits, _ in read],
    )


def general_scores(bare: BareTexts, model: Any | None) -> dict[str, float]:
    """Return the losses of an adapted model, None for the bare base itself, and of the bare base in nats a token, and
    KL(base ‖ base + adapter), the mean over the same tokens.

    Nothing where one of them is no number.
    """
    begun, losses, divergence = time.perf_counter(), list[float](), 0.0
    if model is not None:
        for held, (logits, part) in zip(bare.logits, _read(model, bare.examples, bare.pad_id), strict=True):
            losses += part
            divergence += kl_sum(held.to(logits.device), logits)
    loss = bare.loss if model is None else math.fsum(losses) / max(bare.tokens, 1)
    if not bare.tokens or not all(map(math.isfinite, (bare.loss, loss, divergence))):
        return {}
    return {
        "general_loss": loss,
        "general_loss_base": bare.loss,
        # Of like predictions rounding may leave less than nothing.
        "general_kl": max(0.0, divergence / bare.tokens),
        "general_tokens": float(bare.tokens),
        "general_s": time.perf_counter() - begun,
    }


def _read(model: Any, examples: Sequence[Example], pad_id: int) -> Iterator[tuple[Any, list[float]]]:
    """Yield the logits of each batch, (tokens, vocabulary), and the loss of each of its tokens in nats."""
    for batch in example_batches(examples, SFT, pad_id, _TOGETHER, model.device):
        with torch.no_grad():
            logits, targets, _ = supervised_logits(model, batch)
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        yield logits, losses.double().cpu().tolist()


def _narrow(logits: Any) -> Any:
    """Return float32 in 16 bits where that is what it was widened from."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal((narrow := logits.to(dtype)).float(), logits):
            return narrow
    return logits
