"""Rows of {text, label}: to token ids with the number of their label, and to scores of what a model makes of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from sdk.formats.labels import classes_of
from sdk.formats.rows import Row
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import Rendering
from workers.pipelines.data.batches import Batch, Objective, example_batches
from workers.pipelines.data.tokenise import Example, Tokenised
from workers.pipelines.errors import PipelineError


def class_names(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return what a training on rows tells apart, in the order that numbers it. Raises PipelineError ("data")."""
    try:
        return tuple(classes_of({row.fields["label"] for row in rows}))
    except ValueError as error:
        raise PipelineError(FailureReason.DATA, f"The rows can't be used: {error}.") from error


def label_rows(rows: Sequence[Row], tokenizer: Any, names: Sequence[str], *, max_length: int) -> Tokenised:
    """Return texts as the tokenizer writes them, special tokens included, each with the number of its label.

    A text of more than `max_length` tokens is cut at its end, before the special token that may stand there. Raises
    PipelineError ("data") for texts of which nothing is left.
    """
    numbers = {name: number for number, name in enumerate(names)}
    examples: list[Example] = []
    cut, empty = 0, []
    # Others may have set it to the beginning.
    tokenizer.truncation_side = "right"
    for row in rows:
        text, label = row.fields["text"], row.fields["label"]
        ids = tokenizer(text)["input_ids"]
        if len(ids) > max_length:
            ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
            cut += 1
        # A decoder reads its answer off the last token that is no padding, whoever runs it.
        while ids and ids[-1] == tokenizer.pad_token_id:
            ids = ids[:-1]
        if not ids:
            empty.append(row.where)
            continue
        examples.append(Example(ids, [numbers[label]], [], text, label))
    if empty:
        raise PipelineError(
            FailureReason.DATA,
            f"{len(empty)} texts have no token for this base (first: {empty[0]}); remove their rows.",
        )
    return Tokenised(examples, "text-label", "label", len(examples), 0, cut, Rendering())


def collate(rows: Sequence[dict[str, list[int]]], pad_id: int) -> Batch:
    """Return input_ids and attention_mask, (batch, seq), the longest row first, padded on the right; and labels, (batch,)."""
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    shape = (len(ordered), len(ordered[0]["input_ids"]))
    input_ids, mask = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64)
    for index, row in enumerate(ordered):
        length = len(row["input_ids"])
        input_ids[index, :length] = torch.tensor(row["input_ids"])
        mask[index, :length] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": mask,
        "labels": torch.tensor([row["labels"][0] for row in ordered]),
    }


def label_logits(model: Any, batch: Batch) -> Any:
    """Return (batch, labels) logits in float32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def _loss_sum(model: Any, batch: Batch) -> Any:
    """Return the summed cross-entropy in nats over a batch's rows, a float32 scalar with its graph."""
    return torch.nn.functional.cross_entropy(label_logits(model, batch), batch["labels"], reduction="sum")


#: The loss is a mean over rows.
CLASSIFY = Objective(
    "classify",
    task_type="SEQ_CLS",
    collate=collate,
    counted=lambda batch: len(batch["labels"]),
    loss_sum=_loss_sum,
    logits=label_logits,
)


class Guess(NamedTuple):
    """What a model made of one row."""

    example: Example
    #: Number of the label that it finds likeliest.
    guessed: int
    #: In nats.
    loss: float

    @property
    def label(self) -> int:
        """The row's own."""
        return self.example.labels[0]


def guesses(model: Any, examples: Sequence[Example], pad_id: int, rows: int, device: Any) -> Iterator[list[Guess]]:
    """Yield what a model makes of rows, batch by batch, the longest first."""
    ordered = sorted(examples, key=lambda example: -len(example.input_ids))
    start = 0
    for batch in example_batches(ordered, CLASSIFY, pad_id, rows, device):
        with torch.no_grad():
            logits = label_logits(model, batch)
        losses = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
        part = ordered[start : start + len(losses)]
        start += len(losses)
        yield [
            Guess(example, guessed, loss)
            for example, guessed, loss in zip(part, logits.argmax(-1).tolist(), losses.tolist(), strict=True)
        ]


def scores(found: Sequence[Guess]) -> dict[str, float]:
    """Return loss in nats a row, accuracy, and the mean F1 of the labels that occur in the rows or among the guesses.

    F1 = 2·TP / (2·TP + FP + FN) of each label, each counted alike: macro-F1 as `sklearn.metrics.f1_score` has it.
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
