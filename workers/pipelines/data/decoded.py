"""Tokens as text, and which characters a token is part of.

>>> class Tokenizer:
...     def decode(self, ids, **how):
...         return bytes(ids).decode(errors="replace")
>>> found = Decoded("né!".encode(), Tokenizer())
>>> found.text, [found.start(token) for token in range(4)], [found.end(tokens) for tokens in range(5)]
('né!', [0, 1, 1, 2], [0, 1, 2, 2, 3])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Decoded:
    """Tokens as text, and where in it each of them begins and ends: a character may span several tokens."""

    def __init__(self, ids: Sequence[int], tokenizer: Any) -> None:
        self._ids, self._tokenizer = list(ids), tokenizer
        self.text = self._decode(len(self._ids))

    def start(self, token: int) -> int:
        """Return the offset of the first character that a token is part of."""
        return self._whole(self._decode(token))

    def end(self, tokens: int) -> int:
        """Return the offset after the last character that the first `tokens` tokens are part of."""
        before = self._decode(tokens)
        whole = self._whole(before)
        # Where the decoded text differs from the whole text, a character has only some of its bytes.
        return whole if whole == len(before) else whole + 1

    def _whole(self, before: str) -> int:
        pairs = zip(before, self.text, strict=False)
        return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(before), len(self.text)))

    def _decode(self, tokens: int) -> str:
        return str(
            self._tokenizer.decode(self._ids[:tokens], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
