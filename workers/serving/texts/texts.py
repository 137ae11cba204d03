"""From tokens to text while they arrive: no half character leaves, and the pieces joined are the text of all tokens.

A token is bytes, which may be a part of a character; an answer's bytes go through one decoder of UTF-8.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Any

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: What a decoder writes for bytes that are no character.
BROKEN = "\N{REPLACEMENT CHARACTER}"
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")
#: The texts by which a tokenizer shows whether its tokens can be read one by one.
_SAMPLES = ("Two words, and (3) more; it's done.\n\n  \tnext: x = y[0]", "é€😀 日本 \u0928\u092e")


@dataclass(frozen=True)
class TextPiece:
    """The text of some tokens that belong together."""

    text: str
    ids: tuple[int, ...]
    #: Whether it is one control token, which an answer doesn't show.
    special: bool = False

    @property
    def visible(self) -> str:
        """What an answer shows of it."""
        return "" if self.special else self.text


class TextVocabulary:
    """What the tokens of a tokenizer are as bytes, and which control something."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises PipelineError ("base") for a tokenizer whose tokens can't be read one by one."""
        self._tokenizer = tokenizer
        controls = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = frozenset({*tokenizer.all_special_ids, *controls})
        # A tokenizer may write the first token of a text otherwise, such as without its blank.
        self._anchor = self._encoded("a")
        self._anchored = len(self.decode(self._anchor))
        self._known: dict[tuple[int, bool], bytes] = {}
        for sample in _SAMPLES:
            ids = self._encoded(sample)
            if b"".join(self.bytes_of(token, first=at == 0) for at, token in enumerate(ids)).decode(
                "utf-8", "replace"
            ) != self.decode(ids):
                raise PipelineError(
                    FailureReason.BASE,
                    "The tokenizer writes a token otherwise by what follows it, so no answer can be sent while it is made; "
                    "use `adapterctl eval` for adapters over this base.",
                )

    def is_special(self, token: int) -> bool:
        """Whether a token controls something, and is no part of an answer's text."""
        return token in self._special

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens as it is, with control tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def bytes_of(self, token: int, *, first: bool = False) -> bytes:
        """Return what a token adds to a text, or what it begins one with."""
        if (token, first) not in self._known:
            text = self.decode([token]) if first else self.decode([*self._anchor, token])[self._anchored :]
            self._known[token, first] = (
                text.encode("utf-8", "replace") if BROKEN not in text else self._part(token, text)
            )
        return self._known[token, first]

    def _part(self, token: int, text: str) -> bytes:
        """Return the bytes of a token that is no text by itself."""
        written = str(self._tokenizer.convert_ids_to_tokens(token))
        if found := _ONE_BYTE.fullmatch(written):
            return bytes.fromhex(found[1])
        if all(character in _BYTE_LEVEL for character in written):
            return bytes(_BYTE_LEVEL[character] for character in written)
        return text.encode("utf-8", "replace")

    def _encoded(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _byte_level() -> dict[str, int]:
    """Return the characters by which byte-level tokenizers write bytes, as in GPT-2: those of Latin-1 that are visible
    stand for themselves, the others are written from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    return {**{chr(byte): byte for byte in visible}, **{chr(0x100 + at): byte for at, byte in enumerate(others)}}


_BYTE_LEVEL = _byte_level()


class Detokenizer:
    """The text of one answer, token by token."""

    def __init__(self, vocabulary: TextVocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open: tuple[int, ...] = ()
        self._first = True

    def add(self, token: int) -> list[TextPiece]:
        """Return the pieces that are whole with one more token; none while a character is incomplete."""
        if self._vocabulary.is_special(token):
            # A part of a character before a control token gets no other part.
            return [*self.end(), TextPiece(self._vocabulary.decode([token]), (token,), special=True)]
        text = self._decoder.decode(self._vocabulary.bytes_of(token, first=self._first))
        self._open, self._first = (*self._open, token), False
        # A token without a text may be one that only others give a text.
        if not text and self._decoder.getstate()[0]:
            return []
        return [self._closed(text)]

    def end(self) -> list[TextPiece]:
        """Return what is left when no token follows."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return [self._closed(text)] if self._open or text else []

    def _closed(self, text: str) -> TextPiece:
        ids, self._open = self._open, ()
        return TextPiece(text, ids)
