"""The control tokens of a tokenizer in rendered texts: which of them end a turn, and at which generation stops."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class TurnEnds:
    """How a template ends a turn."""

    #: The end of each turn; "" if the last one ends differently from the others.
    turn: str
    #: Tokens that end a turn.
    tokens: frozenset[str]


class ControlTokens:
    """The control tokens of one tokenizer. Generation stops at `stop_ids` and at the tokenizer's end of text."""

    def __init__(self, tokenizer: Any, stop_ids: Iterable[int] = ()) -> None:
        #: The tokens that are matched whole in a text; those made only of blanks, which some tokenizers add, control
        #: nothing.
        self._controls = {
            text
            for text in (
                *(str(token.content) for token in tokenizer.added_tokens_decoder.values()),
                *tokenizer.all_special_tokens,
            )
            if text.strip()
        }
        self._stop_tokens = {str(tokenizer.eos_token), *tokenizer.convert_ids_to_tokens(list(stop_ids))}

    @cached_property
    def pattern(self) -> str:
        """An expression that matches any of them."""
        longest_first = sorted(self._controls, key=len, reverse=True)
        return "|".join(map(re.escape, longest_first)) or r"(?!)"

    def turn_ends(self, last: str, followed: str) -> TurnEnds:
        """Return how a turn ends, given what a template writes after an answer that is the last message, and after one
        that isn't.
        """
        tokens = set(re.findall(self.pattern, last.rstrip())[-1:])
        turn = self._common(last, followed)
        return TurnEnds(turn, frozenset({*tokens, *re.findall(self.pattern, turn)[-1:]}))

    def end_of_turn(self, text: str, start: int, end: int, ends: TurnEnds) -> int:
        """Return the offset after an answer's end of turn: what a template writes after that to end the whole text is
        not learnt.
        """
        end = start + len(text[start:end].rstrip())
        if not ends.turn:
            return end
        last = text.rfind(ends.turn, start, end)
        if last >= 0 and re.fullmatch(rf"(?:\s|{self.pattern})*+", text[last + len(ends.turn) : end]):
            return last + len(ends.turn)
        return end + len(ends.turn) if text.startswith(ends.turn, end) else end

    def last_control(self, text: str, start: int, end: int) -> int:
        """Return where the control token begins with which a part of a text ends; its end if it ends in none."""
        part = text[start:end].rstrip()
        last = re.search(rf"(?:{self.pattern})\Z", part)
        return end if last is None else start + last.start()

    def stops(self, answer: str, ends: TurnEnds) -> bool:
        """Whether an answer ends in a token at which generation stops.

        Not every control token qualifies: the end of a tool call, or of the reasoning, doesn't end a turn.
        """
        last = re.search(rf"({self.pattern})\Z", answer)
        return last is not None and (last[1] in self._stop_tokens or last[1] in ends.tokens)

    def _common(self, last: str, followed: str) -> str:
        """Return the control tokens with which both texts begin."""
        pieces = [re.findall(rf"\s+|{self.pattern}|.", text, re.DOTALL) for text in (last, followed)]
        common = []
        for one, other in zip(*pieces, strict=False):
            if one != other or not (one.isspace() or one in self._controls):
                break
            common.append(one)
        return "".join(common).rstrip()
