"""Rows of multiple choice as tokens: each choice after its prompt, with the loss only on the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sdk.formats.objectives import ObjectiveError, resolve_loss_on
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.examples import IGNORED, Example, continued, unended
from workers.pipelines.data.rows import Row
from workers.pipelines.data.tokenise import Tokenised, require_usable
from workers.pipelines.errors import PipelineError


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
    try:
        resolve_loss_on(loss_on, "choices")
    except ObjectiveError as error:
        raise PipelineError(FailureReason.DATA, f"The rows can't be used: {error}.") from error
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
