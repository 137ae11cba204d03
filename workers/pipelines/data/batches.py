"""Rows of tokens to tensors, and the loss over the supervised tokens of a batch."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.objective import Batch, HeldOut, Look, Objective, TokenLosses, Tokens
from workers.pipelines.data.stored_examples import lengths_of
from workers.pipelines.model.rotary import parts, turns_at


def collate(rows: Sequence[Tokens], pad_id: int) -> Batch:
    """Return input_ids, labels and attention_mask, each (batch, seq), the longest row first, padded on the right to its
    length.
    """
    return padded([rows[at] for at in by_length(rows)], pad_id)


def by_length(rows: Sequence[Tokens]) -> list[int]:
    """Return the order of rows in a batch: the longest first."""
    return sorted(range(len(rows)), key=lambda at: -len(rows[at]["input_ids"]))


def padded(ordered: Sequence[Tokens], pad_id: int) -> Batch:
    """Return input_ids, labels and attention_mask, each (batch, seq), in the order given, padded on the right to the longest."""
    batch = padded_ids([row["input_ids"] for row in ordered], pad_id)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for index, row in enumerate(ordered):
        labels[index, : len(row["labels"])] = torch.tensor(row["labels"])
    return {**batch, "labels": labels}


def padded_ids(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Return input_ids and attention_mask, each (batch, seq), padded on the right to the longest row."""
    input_ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    mask = torch.zeros_like(input_ids)
    for index, ids in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def micro_batches(batch: Batch, rows: int, turns: int | None = None, sequences: int = 1) -> Iterator[Batch]:
    """Split a batch, whose rows of several sequences each are sorted by length, into parts of up to `rows` rows, each
    cut to its own longest sequence.

    Rows of `turns` tokens and more share no part with others (see `turns_at`). The sum of the parts' losses, and so the
    gradient, equals the whole batch's, with less computation on padding.
    """
    lengths = batch["attention_mask"].sum(dim=1).reshape(-1, sequences).amax(dim=1).tolist()
    for chosen in parts(lengths, rows, turns):
        of_rows = slice(chosen.start * sequences, chosen.stop * sequences)
        part = {name: tensor[of_rows] for name, tensor in batch.items()}
        longest = int(part["attention_mask"].sum(dim=1).max())
        yield {name: tensor[:, :longest] if tensor.dim() > 1 else tensor for name, tensor in part.items()}


def example_batches(
    examples: Sequence[Example], objective: Objective, pad_id: int, rows: int, device: Any, turns: int | None = None
) -> Iterator[Batch]:
    """Yield all examples in batches of up to `rows` rows of similar length, the longest first; those of `turns` tokens
    or more separately.
    """
    order = longest_first(examples, objective.sequences)
    lengths = lengths_of(examples).reshape(-1, objective.sequences).max(axis=1)[order]
    for chosen in parts(lengths, rows, turns):
        some = [tokens_of(examples, row, objective) for row in order[chosen]]
        batch = objective.collate(list(itertools.chain.from_iterable(some)), pad_id)
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def longest_first(examples: Sequence[Example], sequences: int) -> list[int]:
    """Return the numbers of all rows, which have several examples each, those with the longest example first."""
    lengths = lengths_of(examples).astype(np.int64)
    found: list[int] = np.argsort(-lengths.reshape(-1, sequences).max(axis=1), kind="stable").tolist()
    return found


def tokens_of(examples: Sequence[Example], row: int, objective: Objective) -> list[Tokens]:
    """Return the examples of the row with this number."""
    found = examples[row * objective.sequences : (row + 1) * objective.sequences]
    return [tokens_of_example(example) for example in found]


def tokens_of_example(example: Example) -> Tokens:
    """Return what a batch is made from."""
    found = {"input_ids": example.input_ids, "labels": example.labels}
    return found if example.desirable is None else {**found, "desirable": [int(example.desirable)]}


def rows_of(examples: Sequence[Example], objective: Objective) -> Iterator[list[Tokens]]:
    """Yield the examples of each row."""
    for row in range(len(examples) // objective.sequences):
        yield tokens_of(examples, row, objective)


def supervised_tokens(batch: Batch) -> int:
    """Return how many tokens of a batch the loss is computed on."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def token_losses(model: Any, batch: Batch) -> tuple[Any, Any]:
    """Return the cross-entropy of each supervised token in nats, (supervised,) in float32 with its graph, and the
    tokens' places.
    """
    logits, targets, kept = supervised_logits(model, batch)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none"), kept


def loss_sum(model: Any, batch: Batch, losses: TokenLosses = token_losses) -> Any:
    """Return the summed cross-entropy in nats over a batch's supervised tokens, a float32 scalar with its graph."""
    return losses(model, batch)[0].sum()


def passed(batch: Batch) -> dict[str, Any]:
    """Return the inputs of a causal model for a batch.

    Rows are padded on the right, where a causal model's real tokens never look. Without a mask, attention also skips
    the upper triangle; packed rows are separated by positions that start again.
    """
    positions = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
    return {"input_ids": batch["input_ids"], **positions, "use_cache": False}


def without_last(batch: Batch) -> Batch:
    """Return a batch without the last token of the longest row, since it predicts nothing that has a loss."""
    seen = max(1, batch["input_ids"].shape[1] - 1)
    return {**batch, "input_ids": batch["input_ids"][:, :seen]}


def supervised_logits(model: Any, batch: Batch) -> tuple[Any, Any, Any]:
    """Return the logits that predict supervised tokens, (supervised, vocab) in float32, these tokens, (supervised,),
    and their places, (batch, positions).
    """
    logits, targets, kept = said_logits(model, batch)
    return logits.float(), targets, kept


def said_logits(model: Any, batch: Batch) -> tuple[Any, Any, Any]:
    """Return what `supervised_logits` does, with the logits in the model's own type.

    The logits are computed only at positions where some row of the batch has a supervised next token: with a vocabulary
    of 49,152 the head would otherwise be a third of the work, most of it for prompt tokens.
    """
    targets = batch["labels"][:, 1:]
    inputs = passed(batch)
    if _keeps_logits(model):
        positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        logits = model(**inputs, logits_to_keep=positions).logits
        targets = targets[:, positions]
    else:
        logits = model(**inputs).logits[:, : targets.shape[1]]
    kept = targets != IGNORED
    # If all rows have one length and all tokens are supervised, nothing is copied.
    return logits.flatten(0, 1) if bool(kept.all()) else logits[kept], targets[kept], kept


def example_losses(
    model: Any, examples: Sequence[Example], pad_id: int, rows: int, device: Any, losses: TokenLosses = token_losses
) -> Iterator[list[tuple[Example, float]]]:
    """Yield each example with its summed loss in nats, batch by batch, the longest first."""
    for batch in example_token_losses(model, examples, pad_id, rows, device, losses):
        yield [(example, math.fsum(nats)) for example, nats in batch]


def example_token_losses(
    model: Any, examples: Sequence[Example], pad_id: int, rows: int, device: Any, losses: TokenLosses = token_losses
) -> Iterator[list[tuple[Example, list[float]]]]:
    """Yield each example with the losses of its supervised tokens in nats, batch by batch, the longest first."""
    order = longest_first(examples, 1)
    start = 0
    # The last token of a batch's longest row is left out.
    turns = None if (whole := turns_at(model)) is None else whole + 1
    for batch in example_batches(examples, SFT, pad_id, rows, device, turns):
        with torch.no_grad():
            found, kept = losses(model, without_last(batch))
        # To be added up on the CPU in float64, in a fixed order whatever the card.
        parts = [part.tolist() for part in found.double().cpu().split(kept.sum(dim=1).tolist())]
        yield [(examples[at], nats) for at, nats in zip(order[start : start + len(parts)], parts, strict=True)]
        start += len(parts)


def _logits(model: Any, batch: Batch) -> Any:
    """Return (batch, seq, vocab) logits."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def _step_loss(model: Any, batch: Batch, tokens: int, losses: TokenLosses) -> Any:
    return loss_sum(model, batch, losses) / tokens


def _scores(look: Look) -> HeldOut:
    """Return the mean loss in nats per supervised token, and the sums and counts of tokens of rows."""
    losses: list[float] = []
    weights: list[float] = []
    for part in example_losses(look.model, look.examples, look.pad_id, look.rows, look.device, look.losses):
        losses += [loss for _, loss in part]
        weights += [float(example.supervised_tokens) for example, _ in part]
        look.done(len(losses))
    return HeldOut({"loss": math.fsum(losses) / math.fsum(weights)}, losses, weights)


#: The loss is a mean over the supervised tokens of a step.
SFT = Objective(
    "sft",
    collate=collate,
    of_step=lambda model, batch, passes: supervised_tokens(batch),
    loss=_step_loss,
    scores=_scores,
    logits=_logits,
)


def _keeps_logits(model: Any) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def of_sequences(objective: Objective) -> Objective:
    """Return the objective for single sequences, even if several of them are learnt together."""
    return SFT if objective.traits.predicts_tokens else objective
