"""Single answers that become likelier or less likely relative to a reference, as their rows label them: KTO.

A reward is β · log π/π_ref of an answer. It is compared with a baseline: how much likelier the model has made answers in
general, which is estimated from a step's answers, each to the prompt of another of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from sdk.formats.labels import classes_of
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT, example_batches, padded, tokens_of_example
from workers.pipelines.data.batches import collate as padded_longest_first
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.objective import Batch, HeldOut, Look, Objective, Passes, TokenLosses, Tokens
from workers.pipelines.data.preferences import log_ratios
from workers.pipelines.data.stored_examples import StoredExamples
from workers.pipelines.errors import named
from workers.pipelines.model.rotary import turns_at


class _Step(NamedTuple):
    """What is known of a whole step."""

    rows: int
    #: The mean log-ratio of answers to other prompts, in nats, and at least 0: the estimate of KL(π ‖ π_ref).
    baseline: float


def kto(spec: TrainingSpec) -> Objective:
    """Return the objective of KTO (arXiv:2402.01306, equations 7 and 8): λ · (1 - σ(±β · (log-ratio - baseline))), with + and
    the first weight for desirable answers, and - and the second for undesirable ones.

    A log-ratio is log π/π_ref of an answer, summed over its tokens; the loss is a mean over the rows of a step. The baseline
    is computed once for a step, over all of its rows, without dropout and without a gradient; for a single row it is 0.
    Answers to other prompts are cut at `max_length` tokens, as rows are.
    """

    def losses_of(ratios: Any, desirable: Any, baseline: float) -> Any:
        weights = torch.where(desirable, spec.desirable_weight, spec.undesirable_weight)
        return weights * (1 - torch.sigmoid(spec.beta * torch.where(desirable, 1.0, -1.0) * (ratios - baseline)))

    def of_step(model: Any, batch: Batch, passes: Passes) -> _Step:
        rows = _rows_of(batch)
        if len(rows) < 2:
            return _Step(len(rows), 0.0)
        # What pads them is never looked at.
        others = padded_longest_first(
            list(mismatched(rows.__getitem__, len(rows), passes.seed, spec.max_length)), pad_id=0
        )
        others = {name: tensor.to(batch["labels"].device) for name, tensor in others.items()}
        return _Step(len(rows), _baseline(model, passes.parts(others, 1), passes.losses))

    def loss(model: Any, batch: Batch, step: _Step, losses: TokenLosses) -> Any:
        ratios, _ = log_ratios(model, batch, losses)
        return losses_of(ratios, batch["desirable"], step.baseline).sum() / step.rows

    def scores(look: Look) -> HeldOut:
        ratios, desirable = judged(look)
        others = mismatched(
            lambda row: tokens_of_example(look.examples[row]), len(look.examples), look.seed, spec.max_length
        )
        stored = StoredExamples(Example(row["input_ids"], row["labels"], [], "", "", desirable=True) for row in others)
        baseline = _baseline(look.model, _batches(look, stored), look.losses) if len(stored) else 0.0
        each = losses_of(ratios, desirable, baseline)
        found = {"loss": float(each.mean())}
        if look.reference == "parent":
            found["loss_parent"] = float(losses_of(torch.zeros_like(ratios), desirable, 0.0).mean())
        found |= by_label("reward", spec.beta * ratios, desirable)
        return HeldOut(found, each.tolist(), [1.0] * len(each))

    return Objective(
        "kto", collate=_collate, of_step=of_step, loss=loss, scores=scores, logits=SFT.logits, require=_require_both
    )


def _collate(rows: Sequence[Tokens], pad_id: int) -> Batch:
    """Return input_ids, labels and attention_mask, (batch, seq), the longest row first, padded on the right; and desirable,
    (batch,) as truth values.
    """
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    return {**padded(ordered, pad_id), "desirable": torch.tensor([bool(row["desirable"][0]) for row in ordered])}


def _rows_of(batch: Batch) -> list[Tokens]:
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    numbers = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), lengths, strict=True)
    return [{"input_ids": ids[:length], "labels": labels[:length]} for ids, labels, length in numbers]


def mismatched(row_at: Callable[[int], Tokens], rows: int, seed: int, max_length: int) -> Iterator[Tokens]:
    """Yield the prompt of each row with the answer of another one, which a random cycle through all rows chooses; none for a
    single row.
    """
    if rows < 2:
        return
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()
    others = dict(zip(order, [*order[1:], order[0]], strict=True))
    for number in range(rows):
        row, other = row_at(number), row_at(others[number])
        prompt, answer = _answer_begins(row), _answer_begins(other)
        yield {
            "input_ids": (row["input_ids"][:prompt] + other["input_ids"][answer:])[:max_length],
            "labels": ([IGNORED] * prompt + other["labels"][answer:])[:max_length],
        }


def _answer_begins(row: Tokens) -> int:
    return next(place for place, label in enumerate(row["labels"]) if label != IGNORED)


def _baseline(model: Any, batches: Iterable[Batch], losses: TokenLosses) -> float:
    """Return the mean log-ratio of answers in nats, or 0 if that is more."""
    total, rows = 0.0, 0
    with torch.no_grad(), _in_use(model):
        for batch in batches:
            ratios, _ = log_ratios(model, batch, losses)
            total += float(ratios.double().sum())
            rows += len(ratios)
    return max(0.0, total / rows)


@contextmanager
def _in_use(model: Any) -> Iterator[None]:
    """Make a model drop nothing."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def judged(look: Look) -> tuple[Any, Any]:
    """Return the log-ratio of each answer in nats, and whether it is desirable, (rows,) each, the longest first."""
    parts, done = [], 0
    for batch in _batches(look, look.examples):
        with torch.no_grad():
            ratios, _ = log_ratios(look.model, batch, look.losses)
        parts.append((ratios.double().cpu(), batch["desirable"].cpu()))
        look.done(done := done + len(ratios))
    ratios, desirable = (torch.cat(each) for each in zip(*parts, strict=True))
    return ratios, desirable


def _batches(look: Look, examples: Sequence[Example]) -> Iterator[Batch]:
    return example_batches(examples, _BATCHED, look.pad_id, look.rows, look.device, turns_at(look.model))


def by_label(name: str, values: Any, desirable: Any) -> dict[str, float]:
    """Return the mean values of the answers of each label, and how often a desirable one's is above an undesirable one's:
    the area under the ROC curve. A score for which a label is missing is left out.
    """
    both = {f"desirable_{name}": values[desirable], f"undesirable_{name}": values[~desirable]}
    scores = {which: float(each.mean()) for which, each in both.items() if len(each)}
    return scores | ({"auc": area_under_curve(*both.values())} if len(scores) == 2 else {})


def area_under_curve(desirable: Any, undesirable: Any) -> float:
    """Return the share of pairs, one of each, in which the first is the larger; equal ones count half (Mann and Whitney's U)."""
    ordered = undesirable.sort().values
    below, up_to = (torch.searchsorted(ordered, desirable, right=right).double() for right in (False, True))
    return float(((below + up_to) / 2).mean() / len(ordered))


def _require_both(examples: Iterable[Example]) -> None:
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ValueError):
        classes_of({str(example.desirable).lower() for example in examples})


#: How answers become batches.
_BATCHED = kto(TrainingSpec())
