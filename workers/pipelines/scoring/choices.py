"""Rows of multiple choice: each choice as tokens after its prompt, with the loss only on the choice, and which of them is most likely
for a model: accuracy by summed log-likelihood, as in lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sdk.formats.objectives import ObjectiveError, resolve_loss_on
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.examples import IGNORED, Example, continued, unended
from workers.pipelines.data.rows import Row
from workers.pipelines.data.tokenise import Tokenised, require_usable
from workers.pipelines.errors import named
from workers.pipelines.scoring.row_scores import RowScores


@dataclass(frozen=True)
class Question:
    """One row."""

    row: int
    #: One for each choice; the loss of each is the negative log-likelihood of the choice after the prompt.
    examples: list[Example]
    texts: list[str]
    #: The number of the right choice.
    answer: int


def tokenise_choices(
    rows: Sequence[Row], tokenizer: Any, *, loss_on: str | None, max_length: int
) -> tuple[Tokenised, list[Question]]:
    """Return the right choices as rows to compute a loss on, and all choices.

    No end of text follows a choice. A row that is longer than `max_length` tokens loses the beginning of its prompt.
    Raises PipelineError ("data"), naming the rows that can't be used.
    """
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ObjectiveError):
        resolve_loss_on(loss_on, "choices")
    questions, refused, cut = list[Question](), list[tuple[str, str]](), 0
    for number, row in enumerate(rows):
        fields = row.fields
        try:
            made = [_example(fields["prompt"], choice, tokenizer, max_length) for choice in fields["choices"]]
        except RowRefused as error:
            refused.append((row.where, str(error)))
            continue
        cut += any(was_cut for _, was_cut in made)
        examples = [replace(example, row=number) for example, _ in made]
        questions.append(Question(number, examples, fields["choices"], fields["answer"]))
    require_usable(refused, len(rows))
    right = [question.examples[question.answer] for question in questions]
    return Tokenised(right, "choices", "completion", len(questions), 0, cut, Rendering(), None), questions


def _example(prompt: str, choice: str, tokenizer: Any, max_length: int) -> tuple[Example, bool]:
    prompt_ids = unended(tokenizer(prompt)["input_ids"], tokenizer)
    ids = unended(tokenizer(prompt + choice)["input_ids"], tokenizer)
    if ids[: len(prompt_ids)] == prompt_ids:
        own = ids[len(prompt_ids) :]
    else:
        own = continued(tokenizer, prompt_ids, prompt, choice)
    if not own or len(own) >= max_length:
        raise RowRefused(
            f"has a choice of {len(own)} tokens, where 1 to {max_length - 1} fit after a token of the prompt"
        )
    whole = prompt_ids + own
    labels = [IGNORED] * len(prompt_ids) + own
    return Example(whole[-max_length:], labels[-max_length:], [], "", choice), len(whole) > max_length


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
