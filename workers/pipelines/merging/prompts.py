"""Fixed texts run through the trained and the written model: how far their predictions are apart.

The trained model is the base, quantised as in training, with the unmerged adapter in plain PEFT; the written one is
loaded from its folder like any model. Only one of them is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from workers.pipelines.data.batches import padded_ids
from workers.pipelines.data.classify import label_logits
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.fixed_texts import PROBE_TEXTS
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded, words_of
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.merging.judgement import PROBE_LENGTH
from workers.pipelines.merging.judgement import Distance as Distance
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import Device, give_back
from workers.pipelines.model.loading import load_base, load_written
from workers.pipelines.orders import MergeOrder


@dataclass(frozen=True)
class Expected:
    """The trained model's logits."""

    #: In float32: (batch, seq, vocab) for tokens, or (batch, labels) for texts.
    logits: Any
    #: Which of them count.
    kept: Any
    probe: dict[str, Any]

    @property
    def tokens(self) -> int:
        """How many tokens were compared."""
        return int(self.probe["attention_mask"].sum())


def as_trained(order: MergeOrder, classes: Classes | None, device: Device, tokenizer: Any) -> Expected:
    """Return the logits of the base as trained with the unmerged adapter. Raises PipelineError."""
    loaded = load_base(order.base, device, quantization=order.quantization, classes=classes, kept=order.kept)
    probe = _probe(order.base, tokenizer, device, words=words_of(loaded.model))
    model = load_adapter(loaded.model, order.adapter)
    texts = probe if classes is not None else {name: torch.cat([rows, rows[:1]]) for name, rows in probe.items()}
    if classes is None:
        changed = int(probe["attention_mask"][0].sum()) - 1
        texts["input_ids"][-1, changed] = _other_token(probe["input_ids"], changed)
    logits, kept = _logits(model, texts, classes)
    if classes is None:
        # A further text, which is the first one but for its last token, saves a pass: equal numbers in all places before
        # it come from a causal model. What rounds differently is looked at more closely.
        moved = (logits[-1] - logits[0]).abs().amax(dim=-1)
        logits, kept = logits[:-1], kept[:-1]
        if float(moved[:changed].max()) != 0 or not float(moved[changed]) > 0:
            with model.disable_adapter():
                require_causal(model)
    del model, loaded
    give_back()
    return Expected(logits, kept, probe)


def _other_token(ids: Any, last: int) -> Any:
    """Return a token of the texts that is not the one with which the first text ends."""
    others = ids[ids != ids[0, last]]
    return others[0] if len(others) else ids[0, last]


def distance_of(folder: Path, expected: Expected, *, classes: Classes | None, device: Device) -> Distance:
    """Return how far a written model is from the trained one. Raises PipelineError ("verification") if it can't be
    loaded completely.
    """
    with named(FailureReason.VERIFICATION, "The merged model can't be loaded again: {error}", PipelineError):
        model = load_written(folder, device, classes)
    found = distance(expected.logits, _logits(model, expected.probe, classes)[0], expected.kept)
    del model
    give_back()
    return found


def distance(expected: Any, merged: Any, kept: Any) -> Distance:
    """Compare logits, (…, vocab) for tokens or (batch, labels) for texts, at the places given by `kept`.

    If one side has a larger vocabulary, only the shared part is compared.
    """
    shared = min(expected.shape[-1], merged.shape[-1])
    expected, merged = expected[..., :shared][kept], merged[..., :shared][kept]
    p, q = expected.log_softmax(-1), merged.log_softmax(-1)
    # KL(p‖q) = Σ p·(log p − log q), summed over the vocabulary, or the labels, and averaged over tokens, or texts. It
    # is never negative, but rounding may make it so when terms cancel.
    kl = max(0.0, float((p.exp() * (p - q)).sum(-1).mean()))
    return Distance(kl, float((expected - merged).abs().max()))


def _probe(base: Path, tokenizer: Any, device: Device, *, words: int) -> dict[str, Any]:
    """Return the fixed texts as input_ids and attention_mask, (batch, seq), padded on the right.

    A tokenizer may have more tokens than the model's `words`; these are left out.
    """
    cut, encoder = longest_row(base, PROBE_LENGTH), Encoder(tokenizer)
    rows = [embedded(encoder.whole(text), words=words)[:cut] for text in PROBE_TEXTS]
    batch = padded_ids(rows, tokenizer.pad_token_id if tokenizer.pad_token_id < words else 0)
    return {name: tensor.to(device.torch_device) for name, tensor in batch.items()}


def _logits(model: Any, probe: dict[str, Any], classes: Classes | None) -> tuple[Any, Any]:
    """Return logits in float32, and which of them count: (batch, seq, vocab) for tokens, or (batch, labels) for texts."""
    with torch.no_grad():
        if classes is not None:
            return label_logits(model, probe), torch.ones(len(probe["input_ids"]), dtype=torch.bool)
        return model(**probe, use_cache=False).logits.float(), probe["attention_mask"].bool()
