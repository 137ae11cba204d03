"""Thoughts of bounded length: one that has no end after so many tokens gets the end that its template writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.examples import Example
from workers.pipelines.data.thoughts import Notation
from workers.pipelines.errors import PipelineError


class ThoughtLimit(NamedTuple):
    """How long a thought with which the completion of one prompt begins may be, and the answer after it, in tokens."""

    thought_tokens: int
    answer_tokens: int
    notation: Notation
    #: The tokens between a thought and a content, as the template of the prompt writes them.
    closing: tuple[int, ...]
    #: The tokens that begin a thought; none if the prompt ends with them.
    opening: tuple[int, ...]

    @property
    def most_tokens(self) -> int:
        """The most tokens of a completion."""
        return len(self.opening) + self.thought_tokens + len(self.closing) + self.answer_tokens


def thought_limits(
    spec: EvaluationSpec, prompted: Sequence[Example], tokenizer: Any, stop_ids: Sequence[int]
) -> list[ThoughtLimit]:
    """Return the limits for the completions of prompts; none if thoughts have no limit.

    Raises PipelineError ("spec") if a prompt's template writes no end of a thought that could be forced.
    """
    if spec.max_thought_tokens is None:
        return []
    limits = []
    for example in prompted:
        scaffold = example.scaffold
        if scaffold is None or not scaffold.thoughts.closing:
            lacks = "no template renders these rows" if scaffold is None else "that of this base writes none"
            raise PipelineError(
                FailureReason.SPEC,
                f"max_thought_tokens needs a chat template that writes how a thought ends, but {lacks}; leave it out.",
            )
        notation = scaffold.thoughts.notations[0]
        opening = "" if scaffold.prompt_within else notation.opens
        written = (_ids(text, tokenizer) for text in (scaffold.thoughts.closing, opening))
        limits.append(ThoughtLimit(spec.max_thought_tokens, spec.max_new_tokens, notation, *written))
        if not set(stop_ids).isdisjoint(limits[-1].closing):
            raise PipelineError(
                FailureReason.SPEC,
                "max_thought_tokens can't be kept, since generation stops at a token with which a thought ends; leave it out.",
            )
    return limits


def _ids(text: str, tokenizer: Any) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


class LimitedCompletion:
    """A completion while it is generated, token by token."""

    def __init__(self, limit: ThoughtLimit, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self._limit, self._tokenizer, self._stop_ids = limit, tokenizer, frozenset(stop_ids)
        # A text that ends with one of these has it in so many tokens: none has less than a byte.
        self._longest = max(len(close.encode()) for close in limit.notation.closes)
        self._ids: list[int] = []
        self._forced: deque[int] = deque()
        self._begun, self._within, self._since = not limit.opening, not limit.opening, 0
        #: Whether it is complete, and whether its thought was ended by force.
        self.done = self.ended_thought = False
        self._enforce()

    def __len__(self) -> int:
        """Return how many tokens it has, with the one at which it stopped."""
        return len(self._ids)

    @property
    def forced(self) -> int | None:
        """The token that must come next, if one must."""
        return self._forced[0] if self._forced else None

    def add(self, token: int) -> None:
        """Take the token that was generated next; what comes after its end is padding."""
        if self.done:
            return
        self._ids.append(token)
        if self._forced:
            self._forced.popleft()
            if not self._forced:
                self._within, self._since = False, len(self)
        elif token in self._stop_ids:
            self.done = True
        elif self._within:
            if any(
                close in self._text(max(self._since, len(self) - self._longest))
                for close in self._limit.notation.closes
            ):
                self._within, self._since = False, len(self)
        elif not self._begun:
            text, opens = self._text(0).lstrip(), self._limit.notation.opens
            self._begun = self._within = text.startswith(opens)
            self._since = len(self) if self._within else 0
            # It begins otherwise.
            self._begun = self._begun or not opens.startswith(text)
        self._enforce()

    def _enforce(self) -> None:
        spent = len(self) - self._since
        if self._within and not self._forced and not self.done and spent >= self._limit.thought_tokens:
            self._forced.extend(self._unwritten())
            self.ended_thought = True
        if not self._within and spent >= self._limit.answer_tokens + (0 if self._begun else len(self._limit.opening)):
            self.done = True

    def _unwritten(self) -> tuple[int, ...]:
        """Return what of its end a thought doesn't have yet: it may have begun that by itself."""
        closing = self._limit.closing
        have = range(min(len(closing), len(self) - self._since), 0, -1)
        return closing[next((count for count in have if tuple(self._ids[-count:]) == closing[:count]), 0) :]

    def _text(self, first: int) -> str:
        return str(
            self._tokenizer.decode(self._ids[first:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


class _Forcing(LogitsProcessor):  # type: ignore[misc]  # transformers' types are not followed
    """Lets the next token be the one that must come."""

    def __init__(self, completions: Sequence[LimitedCompletion]) -> None:
        self._completions = completions

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores, (batch, vocabulary)."""
        for row, completion in enumerate(self._completions):
            if completion.forced is not None:
                scores[row] = -torch.inf
                scores[row, completion.forced] = 0.0
        return scores


class _Counting(StoppingCriteria):  # type: ignore[misc]  # transformers' types are not followed
    """Takes each token, and ends the completions that are done."""

    def __init__(self, completions: Sequence[LimitedCompletion]) -> None:
        self._completions = completions

    def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> Any:
        """Return which are done, (batch,)."""
        for completion, token in zip(self._completions, input_ids[:, -1].tolist(), strict=True):
            completion.add(token)
        return torch.tensor([completion.done for completion in self._completions], device=input_ids.device)


def limiting(completions: Sequence[LimitedCompletion]) -> dict[str, Any]:
    """Return what a model's `generate` needs to keep the limits of the completions of a batch."""
    return {
        "logits_processor": LogitsProcessorList([_Forcing(completions)]),
        "stopping_criteria": StoppingCriteriaList([_Counting(completions)]),
    }
