"""How far an adapter moves a base's predictions on the fixed texts: with the adapter, and without it, one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from sdk.schemas.probe import MOST_TOKENS, ProbeReport, ProbeText
from workers.pipelines.data.classify import label_logits
from workers.pipelines.data.divergence import kl_sum
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.fixed_texts import PROBE_TEXTS, TEXTS_DIGEST
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded, words_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.trained_whole import without_adapter


def probe(model: Any, tokenizer: Any, base: Path, device: Any, *, labelled: bool) -> ProbeReport:
    """Measure a PeftModel in evaluation mode; `labelled`: it is a classifier, and its labels' logits are compared.

    Texts are tokenised by the tokenizer of the base in a folder, without tokens that the model has no embedding for,
    cut, and go through the model one by one, without padding. Logits are compared in float32, a token at a time. The
    state of random number generators is not changed. Raises PipelineError ("diverged") for logits that are not finite.
    """
    cut, words = longest_row(base, MOST_TOKENS), words_of(model)
    found, largest, encoder = [], 0.0, Encoder(tokenizer)
    model.eval()
    with torch.no_grad():
        for number, text in enumerate(PROBE_TEXTS, start=1):
            ids = torch.tensor([embedded(encoder.whole(text), words=words)[:cut]], device=device)
            measured, most = _measured(model, ids, number, labelled=labelled)
            found.append(measured)
            largest = max(largest, most)
    return ProbeReport(texts_digest=TEXTS_DIGEST, texts=found, largest_logit=largest)


def _measured(model: Any, ids: Any, number: int, *, labelled: bool) -> tuple[ProbeText, float]:
    """Return the result for one text, and the largest logit of the base. Only this text's logits are in memory then."""
    adapted = _logits(model, ids, labelled=labelled)
    with without_adapter(model):
        bare = _logits(model, ids, labelled=labelled)
    if not bool(adapted.isfinite().all() and bare.isfinite().all()):
        raise PipelineError(
            FailureReason.DIVERGED,
            f"The logits of fixed text {number} are not finite; lower lr, and see whether the base computes in this precision.",
        )
    kl = max(0.0, kl_sum(bare, adapted) / len(bare))
    return ProbeText(tokens=ids.shape[1], logit_gap=_largest_gap(adapted, bare), kl=kl), float(bare.abs().max())


def _logits(model: Any, ids: Any, *, labelled: bool) -> Any:
    """Return (seq, vocab) logits, as computed, for a text of (1, seq) tokens, or (1, labels)."""
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return label_logits(model, batch) if labelled else model(**batch, use_cache=False).logits[0]


def _largest_gap(adapted: Any, bare: Any) -> float:
    """Return the largest change of a logit. One token at a time is widened: with a large vocabulary all would take
    gigabytes.
    """
    return max(float((after.float() - before.float()).abs().max()) for after, before in zip(adapted, bare, strict=True))
