"""Rows of preferences: the loss of the rejected answers, and how a version rates answers compared with its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from peft import PeftModel

from sdk.formats.peft_unusable import changes_base
from sdk.schemas.evaluation import MOST_SCORE
from workers.pipelines.data.batches import example_losses, longest_first, token_losses
from workers.pipelines.data.kto import by_label
from workers.pipelines.data.kto import judged as judged_labels
from workers.pipelines.data.objective import Look
from workers.pipelines.data.preferences import Pair, judged, preference_scores
from workers.pipelines.data.rows import Row
from workers.pipelines.scoring.language_model import Losses, TokenRows, tokenise_texts
from workers.pipelines.scoring.row_scores import RowScores
from workers.pipelines.scoring.target import Target


def tokenise_preferences(given: Sequence[Row], target: Target) -> TokenRows:
    """Return rows whose chosen answer is the expected one. Raises PipelineError ("data")."""
    texts = tokenise_texts(given, target)
    pairs = texts.tokenised.examples
    chosen, rejected = pairs[::2], pairs[1::2]

    def compare(rows: RowScores, model: Any) -> dict[str, float]:
        if _has_base(model):
            judgements = chain.from_iterable(judged(model, pairs, *target.batches))
            order = longest_first(pairs, 2)
            return _preferences({chosen[at].row: pair for at, pair in zip(order, judgements, strict=True)}, rows)
        return _rejected_loss(list(chain.from_iterable(example_losses(model, rejected, *target.batches))), rows)

    return replace(texts, expected=chosen, examples=chosen, compare=compare)


def tokenise_labelled(given: Sequence[Row], target: Target) -> TokenRows:
    """Return rows whose answers are desirable or not; the loss is over all of them. Raises PipelineError ("data")."""
    texts = tokenise_texts(given, target)
    examples = texts.tokenised.examples
    names = ("desirable_log_ratio", "undesirable_log_ratio", "auc")

    def compare(rows: RowScores, model: Any) -> dict[str, float]:
        if not _has_base(model):
            return {}
        ratios, desirable = judged_labels(Look(model, examples, *target.batches, token_losses))
        good = ratios.abs() <= MOST_SCORE
        failed = [
            examples[at].row for at, fine in zip(longest_first(examples, 1), good.tolist(), strict=True) if not fine
        ]
        rows.add_failed(names, failed, int(good.sum()))
        return by_label("log_ratio", ratios[good], desirable[good])

    return replace(texts, compare=compare)


def _has_base(model: Any) -> bool:
    """Whether there is something to compare with: not for a bare base, nor for an adapter that began by changing its base."""
    return isinstance(model, PeftModel) and not any(
        changes_base(config.init_lora_weights) for config in model.peft_config.values()
    )


def _rejected_loss(losses: Losses, rows: RowScores) -> dict[str, float]:
    """Return the loss of rejected answers, over the rows that have one."""
    good = [(example, loss) for example, loss in losses if abs(loss) <= MOST_SCORE]
    having = {example.row for example, _ in good}
    rows.add_failed(["rejected_loss"], [example.row for example, _ in losses if example.row not in having], len(good))
    tokens = sum(example.supervised_tokens for example, _ in good)
    return {"rejected_loss": math.fsum(loss for _, loss in good) / tokens} if good else {}


def _preferences(pairs: Mapping[int, Pair], rows: RowScores) -> dict[str, float]:
    """Return the loss of rejected answers, and how much more an adapter prefers the chosen ones than its base.

    Each score is over the rows, by their numbers, for which it can be computed; one that failed on all is left out.
    """
    metrics: dict[str, float] = {}
    for names, can_be in (
        (("rejected_loss",), _has_rejected),
        (("preference_accuracy", "preference_margin"), _has_both),
    ):
        good = {row: pair for row, pair in pairs.items() if can_be(pair)}
        rows.add_failed(names, [row for row in pairs if row not in good], len(good))
        if good:
            scores = preference_scores(list(good.values()))
            metrics |= {name: scores[name] for name in names}
    return metrics


def _has_rejected(pair: Pair) -> bool:
    return abs(pair.rejected + pair.rejected_ratio) <= MOST_SCORE


def _has_both(pair: Pair) -> bool:
    return _has_rejected(pair) and abs(pair.chosen + pair.chosen_ratio) <= MOST_SCORE
