"""Fixed texts through what was trained and through what was written: how far their predictions are from each other.

What was trained is the base, quantised where it was, with the adapter beside it in plain PEFT; what was written is read from its
folder as anybody reads it. One of them is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.data.classify import label_logits
from workers.pipelines.data.probe_texts import PROBE_TEXTS
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded, words_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import Device
from workers.pipelines.model.freed import give_back
from workers.pipelines.model.loading import load_base, load_written

#: Tokens of each text at most; a small batch keeps the logits of a large vocabulary small.
_PROBE_LENGTH = 128


@dataclass(frozen=True)
class Distance:
    """How far a merged model's predictions are from those of base-as-trained + adapter."""

    #: Mean of KL(as trained ‖ merged), in nats a token.
    kl: float
    max_abs_logit_diff: float


@dataclass(frozen=True)
class Expected:
    """What was trained says."""

    #: In float32: (batch, seq, vocab) of tokens, or (batch, labels) of texts.
    logits: Any
    #: Which of them count.
    kept: Any
    probe: dict[str, Any]

    @property
    def tokens(self) -> int:
        """How many tokens were compared."""
        return int(self.probe["attention_mask"].sum())


def as_trained(
    base: Path,
    adapter: Path,
    *,
    quantization: QuantizationRecipe | None,
    classes: Classes | None,
    device: Device,
    tokenizer: Any,
    kept: Path | None = None,
) -> Expected:
    """Return what the base as it was trained over says with the adapter beside it. Raises PipelineError."""
    loaded = load_base(base, device, quantization=quantization, classes=classes, kept=kept)
    if classes is None:
        require_causal(loaded.model)
    probe = _probe(base, tokenizer, device, words=words_of(loaded.model))
    model = load_adapter(loaded.model, adapter)
    logits, kept = _logits(model, probe, classes)
    del model, loaded
    give_back()
    return Expected(logits, kept, probe)


def distance_of(folder: Path, expected: Expected, *, classes: Classes | None, device: Device) -> Distance:
    """Return how far a written model is from what was trained. Raises PipelineError ("verification") where it can't be loaded whole."""
    try:
        model = load_written(folder, device, classes)
    except PipelineError as error:
        raise PipelineError(
            FailureReason.VERIFICATION, f"The merged model can't be loaded again: {error.message}"
        ) from error
    found = distance(expected.logits, _logits(model, expected.probe, classes)[0], expected.kept)
    del model
    give_back()
    return found


def distance(expected: Any, merged: Any, kept: Any) -> Distance:
    """Compare logits, (…, vocab) of tokens or (batch, labels) of texts, where `kept` says that they count.

    Of a vocabulary that one side has more of, the shared part is compared.
    """
    shared = min(expected.shape[-1], merged.shape[-1])
    expected, merged = expected[..., :shared][kept], merged[..., :shared][kept]
    p, q = expected.log_softmax(-1), merged.log_softmax(-1)
    # KL(p‖q) = Σ p·(log p − log q), summed over the vocabulary, or the labels, and averaged over tokens, or texts. It is never negative, but the
    # rounding of a sum whose terms cancel may be.
    kl = max(0.0, float((p.exp() * (p - q)).sum(-1).mean()))
    return Distance(kl, float((expected - merged).abs().max()))


def _probe(base: Path, tokenizer: Any, device: Device, *, words: int) -> dict[str, Any]:
    """Return the fixed texts as input_ids and attention_mask, (batch, seq), padded on the right.

    A tokenizer may have more tokens than the model has `words`; these are left out.
    """
    cut = longest_row(base, _PROBE_LENGTH)
    rows = [embedded(tokenizer(text)["input_ids"], words=words)[:cut] for text in PROBE_TEXTS]
    longest = max(map(len, rows))
    input_ids = torch.full((len(rows), longest), tokenizer.pad_token_id if tokenizer.pad_token_id < words else 0)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    place = device.torch_device
    return {"input_ids": input_ids.to(place), "attention_mask": mask.to(place)}


def _logits(model: Any, probe: dict[str, Any], classes: Classes | None) -> tuple[Any, Any]:
    """Return logits in float32, and which of them count: (batch, seq, vocab) of tokens, or (batch, labels) of texts."""
    with torch.no_grad():
        if classes is not None:
            return label_logits(model, probe), torch.ones(len(probe["input_ids"]), dtype=torch.bool)
        return model(**probe, use_cache=False).logits.float(), probe["attention_mask"].bool()
