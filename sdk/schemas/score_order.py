"""Scores as people ask for them: the loss first, which way is better, and which of two is.

>>> in_order_asked(["base_bfloat16_bytes", "bleu", "loss", "rouge_l", "rows"])
['loss', 'rouge_l', 'bleu', 'rows', 'base_bfloat16_bytes']
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import get_args

from sdk.schemas.evaluation import TextMetric, better_is, is_score

#: The scores that tables show if there are such, in this order.
ASKED_FIRST = (
    "loss",
    "accuracy",
    "macro_f1",
    "acc",
    "acc_norm",
    "acc_bytes",
    "preference_accuracy",
    "preference_margin",
    "perplexity",
    *get_args(TextMetric),
)


def in_order_asked(metrics: Iterable[str]) -> list[str]:
    """Return metrics in the order in which people ask for them: the loss, other scores, and then counts, times and sizes.

    >>> in_order_asked(["base_bfloat16_bytes", "bleu", "loss", "rouge_l", "rows"])
    ['loss', 'rouge_l', 'bleu', 'rows', 'base_bfloat16_bytes']
    """
    first = (*ASKED_FIRST, "rows")
    places = {name: at for at, name in enumerate(first)}
    return sorted(metrics, key=lambda name: (places.get(name, len(first)), not is_score(name), name))


def direction(metric: str) -> str | None:
    """Say whether a lower or a higher score is the better one; None if nobody knows, or it is none.

    >>> direction("loss"), direction("rouge_l"), direction("rows")
    ('lower', 'higher', None)
    """
    return {"less": "lower", "more": "higher"}.get(better_is(metric) or "")


def better_of(metric: str, a: float | None, b: float | None) -> str | None:
    """Say which of two scores is better, a or b; None if they are equal, or nobody knows.

    >>> better_of("loss", 1.5, 1.2), better_of("rouge_l", 0.5, 0.2), better_of("loss", 1.0, 1.0)
    ('b', 'a', None)
    """
    if a is None or b is None or a == b or (wanted := direction(metric)) is None:
        return None
    return "a" if (a < b) == (wanted == "lower") else "b"


def of_training(name: str) -> str:
    """Return the metric that a score of a training is: those of held-out rows have its name, those of single looks too.

    >>> of_training("eval_loss"), of_training("eval_loss_best"), of_training("loss")
    ('loss', 'loss', 'loss')
    """
    return re.sub(r"^eval_(\w+?)(_best|_end)?$", r"\1", name)
