"""Which of several choices is most likely for a model: accuracy by summed log-likelihood, as in lm-evaluation-harness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from workers.pipelines.data.choices import Question
from workers.pipelines.data.examples import Example
from workers.pipelines.scoring.row_scores import RowScores

#: Increased whenever a score would change.
CHOICES_VERSION = 1


def score_choices(
    questions: Sequence[Question], losses: Iterable[tuple[Example, float]], scored: RowScores
) -> dict[str, float]:
    """Add each row's result to `scored`, given the `losses` of the choices; return the means, empty without questions.

    `acc`: the right choice has the greatest log-likelihood, summed over its tokens; `acc_norm`: it has the greatest per
    byte of its text in UTF-8. Of equal ones the first counts. A row with a choice whose log-likelihood is not a number
    has neither, and is counted.
    """
    of = {id(example): loss for example, loss in losses}
    failed = []
    for question in questions:
        found = [of[id(example)] for example in question.examples]
        if not all(map(math.isfinite, found)):
            failed.append(question.row)
            continue
        by_byte = [loss / len(text.encode()) for loss, text in zip(found, question.texts, strict=True)]
        chosen = _least(found)
        scored.predictions[question.row] = question.texts[chosen]
        scored.scores[question.row] = {
            "acc": float(chosen == question.answer),
            "acc_norm": float(_least(by_byte) == question.answer),
        }
    if failed:
        scored.failed |= {"acc": failed, "acc_norm": failed}
    found_of = [scored.scores[question.row] for question in questions if question.row in scored.scores]
    return {name: math.fsum(row[name] for row in found_of) / len(found_of) for name in ("acc", "acc_norm") if found_of}


def _least(values: Sequence[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)
