"""Batches of rows with labels, the loss over them, and the scores of a model's predictions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from sdk.lora.architectures import is_encoder
from workers.pipelines.data.batches import example_batches, longest_first, padded_ids
from workers.pipelines.data.examples import Example
from workers.pipelines.data.objective import Batch, HeldOut, Look, Objective, TokenLosses
from workers.pipelines.model.causality import fixed_texts
from workers.pipelines.model.packed import multiplies_in_eight_bits
from workers.pipelines.model.rotary import turns_at

#: The share of the largest logit by which other tokens may change a logit if matrices are multiplied in 8 bits.
_IN_EIGHT_BITS = 0.05


def collate(rows: Sequence[dict[str, list[int]]], pad_id: int) -> Batch:
    """Return input_ids and attention_mask, (batch, seq), the longest row first, padded on the right; and labels, (batch,)."""
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    labels = torch.tensor([row["labels"][0] for row in ordered])
    return {**padded_ids([row["input_ids"] for row in ordered], pad_id), "labels": labels}


def label_logits(model: Any, batch: Batch) -> Any:
    """Return (batch, labels) logits in float32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def logits_of(model: Any, texts: Any) -> Any:
    """Return (batch, labels) logits in float32 for tokens, (batch, seq), without padding."""
    with torch.no_grad():
        return label_logits(model, {"input_ids": texts, "attention_mask": torch.ones_like(texts)})


class Guess(NamedTuple):
    """A model's prediction for one row."""

    example: Example
    #: Number of the label with the highest probability.
    guessed: int
    #: In nats.
    loss: float
    #: Probability of that label.
    confidence: float

    @property
    def label(self) -> int:
        """Number of the row's own label."""
        return self.example.labels[0]


def reads_padding(model: Any, pad_id: int) -> bool:
    """Whether a model's logits for a row depend on its padding, so that its neighbours in a pass change them.

    They do in encoders that mix all tokens of a sequence (FNet), or nearby ones (ConvBERT), ignoring the mask. A
    decoder reads its answer before any padding.
    """
    if not is_encoder(model.config.to_dict()):
        return False
    if getattr(model.config, "attention_type", None) == "block_sparse":
        # BigBird chooses its blocks by the padded length; a short text as below would turn that off for good.
        return True
    padded = fixed_texts(model)[:1].repeat(2, 1)
    mask = torch.ones_like(padded)
    mask[:, padded.shape[1] // 2 :] = 0
    padded[0] = padded[0].masked_fill(mask[0] == 0, pad_id)
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            # Each in a pass of its own: results may depend on a row's place in the batch.
            one, other = (label_logits(model, {"input_ids": ids[None], "attention_mask": mask[:1]}) for ids in padded)
    finally:
        model.train(was)
    share = _IN_EIGHT_BITS if multiplies_in_eight_bits(model) else 0.0
    # Also true for NaN.
    return not float((one - other).abs().max()) <= share * float(one.abs().max())


def guesses(model: Any, examples: Sequence[Example], pad_id: int, rows: int, device: Any) -> Iterator[list[Guess]]:
    """Yield a model's predictions for rows, up to `rows` at a time, the longest first; one at a time if it would read
    their padding.
    """
    order = longest_first(examples, 1)
    rows = 1 if rows > 1 and reads_padding(model, pad_id) else rows
    start = 0
    for batch in example_batches(examples, CLASSIFY, pad_id, rows, device, turns_at(model)):
        with torch.no_grad():
            logits = label_logits(model, batch)
        losses = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
        surest = logits.softmax(-1).amax(-1)
        part = [examples[at] for at in order[start : start + len(losses)]]
        start += len(losses)
        yield [
            Guess(example, guessed, loss, min(confidence, 1.0))
            for example, guessed, loss, confidence in zip(
                part, logits.argmax(-1).tolist(), losses.tolist(), surest.tolist(), strict=True
            )
        ]


def scores(found: Sequence[Guess]) -> dict[str, float]:
    """Return the loss in nats per row, accuracy, and the mean F1 of the labels that occur in the rows or among the predictions.

    F1 = 2·TP / (2·TP + FP + FN) for each label, with equal weights: macro-F1 as in `sklearn.metrics.f1_score`.
    """
    hits = Counter(guess.label for guess in found if guess.guessed == guess.label)
    of_rows, guessed = Counter(guess.label for guess in found), Counter(guess.guessed for guess in found)
    occurring = of_rows.keys() | guessed.keys()
    f1 = [2 * hits[label] / (of_rows[label] + guessed[label]) for label in occurring]
    return {
        "loss": math.fsum(guess.loss for guess in found) / len(found),
        "accuracy": sum(hits.values()) / len(found),
        "macro_f1": math.fsum(f1) / len(f1),
    }


def _loss(model: Any, batch: Batch, rows: int, _losses: TokenLosses) -> Any:
    return torch.nn.functional.cross_entropy(label_logits(model, batch), batch["labels"], reduction="sum") / rows


def _scores(look: Look) -> HeldOut:
    found: list[Guess] = []
    for part in guesses(look.model, look.examples, look.pad_id, look.rows, look.device):
        found += part
        look.done(len(found))
    return HeldOut(scores(found), [guess.loss for guess in found], [1.0] * len(found))


#: The loss is the cross-entropy of a row's label, a mean over the rows of a step.
CLASSIFY = Objective(
    "classify",
    collate=collate,
    of_step=lambda model, batch, passes: len(batch["labels"]),
    loss=_loss,
    scores=_scores,
    logits=label_logits,
)
