"""Which tokens of a rendered text are the contents of its answers; what comes before them in an answer is reasoning and
scaffold, and what comes after them is its end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

from workers.pipelines.data.contents import AnswerText
from workers.pipelines.data.spans import SupervisedText
from workers.pipelines.data.thoughts import Scaffold, Thoughts, cut_leading


class AnswerTokens(NamedTuple):
    """One answer."""

    #: Its content and calls, [first, last) of the text's tokens; empty if it has neither.
    content: tuple[int, int]
    #: The same as text, without blanks around.
    said: str
    scaffold: Scaffold
    #: From the token in which the content begins to the end of turn; empty if it has neither content nor calls.
    after_reasoning: tuple[int, int]
    #: Its message's index.
    message: int


def answer_tokens(
    sample: SupervisedText, ids: Sequence[int], starts: Sequence[int], tokenizer: Any
) -> list[AnswerTokens]:
    """Return the answers of a text, whose tokens begin at `starts`, in characters."""
    return [_of_answer(answer, sample, ids, starts, tokenizer) for answer in sample.answers]


def _of_answer(
    answer: AnswerText, sample: SupervisedText, ids: Sequence[int], starts: Sequence[int], tokenizer: Any
) -> AnswerTokens:
    begins, thoughts = bisect_left(starts, answer.span[0]), sample.thoughts or Thoughts()
    is_last = answer is sample.answers[-1]
    prompt_within = is_last and thoughts.within(sample.prompt)
    row_within = thoughts.within(sample.text[: answer.span[0]])
    first, last = (bisect_left(starts, place) for place in answer.content)
    # A token that only ends within the content is scaffold, but its text isn't.
    lead = sample.text[answer.content[0] : min([answer.content[1], *starts[first : first + 1]])]
    within = (prompt_within or row_within) and not cut_leading(
        ids[begins:first], tokenizer, thoughts, within=True
    ).closed
    cut = cut_leading(ids[first:last], tokenizer, thoughts, within=within)
    if cut.closed and cut.first:
        first, lead = first + cut.first, cut.lead
    said = (lead + str(tokenizer.decode(list(ids[first:last]), skip_special_tokens=True))).strip()
    head = tuple(ids[begins:first])
    scaffold = Scaffold(thoughts, head, lead.lstrip(), prompt_within, row_within, unclosed=not cut.closed)
    ends = bisect_left(starts, answer.span[1])
    after = (first - bool(lead.strip() and head), ends) if said else (ends, ends)
    return AnswerTokens((first, last if said else first), said, scaffold, after, answer.message)
