"""Whole texts as tokens, with the special tokens that a tokenizer puts around every text, such as one for its beginning.

Texts that were rendered before may have these already. No base was trained on the same one twice, so the tokenizer's own
goes. All code that lets a tokenizer add its tokens does it here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sdk.schemas.version_records import SpecialTokens


class Encoder:
    """Encodes whole texts, and counts those that have a special token of the tokenizer's already."""

    def __init__(self, tokenizer: Any, rule: SpecialTokens = "once") -> None:
        """`rule` "added" is that of trainings before it was recorded: the tokenizer's own are always added, and any end
        of text is taken off an open text.
        """
        self._tokenizer = tokenizer
        self._once = rule == "once"
        self._before, self._after = around(tokenizer)
        self._had: set[int] = set()
        #: Token → how many rows had it already.
        self.had: Counter[int] = Counter()

    def whole(self, text: str, *, most: int | None = None) -> list[int]:
        """Return a text with the tokenizer's own tokens around it; cut at its end, within these, if it is longer than
        `most` tokens.
        """
        before, ids, after = self._parts(text)
        if most is not None and len(before) + len(ids) + len(after) > most:
            ids = ids[: max(0, most - len(before) - len(self._after))]
            after = self._after
            if self._once and after and ids and ids[-1] == after[0]:
                after = after[1:]
        return [*before, *ids, *after][:most]

    def ended(self, text: str) -> list[int]:
        """Return a text that ends with the end of text, so that a model learns to stop."""
        ids, end = self.whole(text), self._tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]

    def open(self, text: str) -> list[int]:
        """Return a text that goes on: without an end of text that the tokenizer itself puts after every text."""
        end = self._tokenizer.eos_token_id
        if self._once:
            before, ids, after = self._parts(text)
            # An end of text within the text is its own.
            return [*before, *ids, *(after[:-1] if after[-1:] == [end] else after)]
        ids = self.whole(text)
        return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids

    def note_row(self) -> None:
        """Count what was found in the texts since the row before."""
        self.had.update(self._had)
        self._had.clear()

    def had_already(self) -> dict[str, int]:
        """Return how many rows had which of the tokenizer's own tokens already, by its text, sorted."""
        return {str(self._tokenizer.convert_ids_to_tokens(token)): self.had[token] for token in sorted(self.had)}

    def _parts(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """What the tokenizer puts before a text, the text's own tokens, and what it puts after it."""
        ids = list(self._tokenizer(text)["input_ids"])
        before, after = self._before, self._after
        rest = len(ids) - len(after)
        if len(ids) < len(before) + len(after) or ids[: len(before)] != before or ids[rest:] != after:
            return [], ids, []
        ids = ids[len(before) : rest]
        if self._once and before and ids and ids[0] == before[-1]:
            self._had.add(before[-1])
            before = before[:-1]
        if self._once and after and ids and ids[-1] == after[0]:
            self._had.add(after[0])
            after = after[1:]
        return before, ids, after


def encoder_of_file(tokenizer: Any) -> Encoder:
    """Return an encoder of whole texts for a `tokenizers.Tokenizer`, which was read without transformers."""

    def encoded(text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    return Encoder(encoded)


def around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after every text."""
    whole, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return list(whole[:start]), list(whole[start + len(plain) :])
    return list(whole), []
