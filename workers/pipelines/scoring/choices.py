"""Rows of multiple choice: each choice as tokens after its prompt, with the loss only on the choice, and which of them is most likely
for a model: accuracy by log-likelihood, summed, per character and per byte, as in lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from sdk.formats.objectives import ObjectiveError, resolve_loss_on
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.examples import IGNORED, Example, continued
from workers.pipelines.data.rows import Row
from workers.pipelines.data.tokenise import Tokenised, require_usable
from workers.pipelines.errors import named
from workers.pipelines.scoring.language_model import Losses, TokenRows
from workers.pipelines.scoring.row_scores import RowScores
from workers.pipelines.scoring.target import Target

#: Increased whenever a score would change.
CHOICES_VERSION = 2
#: What separates a choice from its prompt, and is no part of its length.
_DELIMITER = " "
#: The scores of a row: accuracy of the choice that is likeliest per this length of its text.
_LENGTHS: dict[str, Callable[[str], int]] = {
    "acc": lambda _text: 1,
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode()),
}


@dataclass(frozen=True)
class _Question:
    """One row."""

    row: int
    #: One for each choice; the loss of each is the negative log-likelihood of the choice after the prompt.
    examples: list[Example]
    choices: list[str]
    #: The number of the right choice.
    answer: int


def tokenise_choices(given: Sequence[Row], target: Target) -> TokenRows:
    """Return rows whose right choice is the expected answer.

    No end of text follows a choice. A row that is longer than `max_length` tokens loses the beginning of its prompt.
    Raises PipelineError ("data"), naming the rows that can't be used.
    """
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ObjectiveError):
        resolve_loss_on(target.spec.loss_on, "choices")
    encoder = Encoder(target.tokenizer)
    questions, refused, cut = list[_Question](), list[tuple[str, str]](), 0
    for number, row in enumerate(given):
        prompt, choices = row.fields["prompt"], row.fields["choices"]
        try:
            made = [_example(prompt, choice, encoder, target) for choice in choices]
        except RowRefused as error:
            refused.append((row.where, str(error)))
            continue
        cut += any(was_cut for _, was_cut in made)
        examples = [replace(example, row=number) for example, _ in made]
        encoder.note_row()
        questions.append(_Question(number, examples, choices, row.fields["answer"]))
    require_usable(refused, len(given))
    right = [question.examples[question.answer] for question in questions]
    return TokenRows(
        given,
        Tokenised(
            right, "choices", "completion", len(questions), 0, cut, Rendering(), None, had_special=encoder.had_already()
        ),
        expected=right,
        examples=list(chain.from_iterable(question.examples for question in questions)),
        definitions={"choices": str(CHOICES_VERSION)},
        predicts=True,
        grade=lambda losses, rows: _accuracies(questions, losses, rows),
    )


def _example(prompt: str, choice: str, encoder: Encoder, target: Target) -> tuple[Example, bool]:
    prompt_ids, ids, max_length = encoder.open(prompt), encoder.open(prompt + choice), target.max_length
    if ids[: len(prompt_ids)] == prompt_ids:
        own = ids[len(prompt_ids) :]
    else:
        own = continued(encoder, target.tokenizer, prompt_ids, prompt, choice)
    if not own or len(own) >= max_length:
        raise RowRefused(
            f"has a choice of {len(own)} tokens, where 1 to {max_length - 1} fit after a token of the prompt"
        )
    whole = prompt_ids + own
    labels = [IGNORED] * len(prompt_ids) + own
    return Example(whole[-max_length:], labels[-max_length:], [], "", choice), len(whole) > max_length


def _accuracies(questions: Sequence[_Question], losses: Losses, rows: RowScores) -> dict[str, float]:
    """Return the mean of each accuracy; those of each row are added to `rows`.

    `acc`: the right choice has the greatest log-likelihood, summed over its tokens; `acc_norm`: it has the greatest per
    character, and `acc_bytes` per byte in UTF-8, of its text without the blank that separates it from the prompt. Of
    equal ones the first counts. A row with a choice whose log-likelihood is not a number has none, and is counted.
    """
    loss_of = {id(example): loss for example, loss in losses}
    failed = []
    for question in questions:
        nats = [loss_of[id(example)] for example in question.examples]
        if not all(map(math.isfinite, nats)):
            failed.append(question.row)
            continue
        texts = [choice.removeprefix(_DELIMITER) for choice in question.choices]
        taken = {name: likeliest(nats, list(map(length, texts))) for name, length in _LENGTHS.items()}
        rows.predictions[question.row] = question.choices[taken["acc"]]
        rows.scores[question.row] = {name: float(place == question.answer) for name, place in taken.items()}
    if failed:
        rows.failed |= dict.fromkeys(_LENGTHS, failed)
    graded = [rows.scores[question.row] for question in questions if question.row in rows.scores]
    return {name: math.fsum(row[name] for row in graded) / len(graded) for name in _LENGTHS if graded}


def likeliest(nats: Sequence[float], lengths: Sequence[int]) -> int:
    """The first of the places with the fewest nats per length; a text without a length has infinitely many.

    >>> likeliest([3.0, 2.0, 4.0], [2, 1, 4]), likeliest([3.0, 1.5, 2.0], [2, 1, 0])
    (2, 0)
    """
    return min(range(len(nats)), key=lambda place: nats[place] / lengths[place] if lengths[place] else math.inf)
