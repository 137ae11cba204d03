"""The words of a text in any alphabet, for comparing generated texts."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from sdk.rows.texts import stream_safe

#: Increased with every change of what a word is; it is recorded with the scores.
WORDS_VERSION = 2
#: Prefixes of the names of letters in scripts without spaces between words.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "HALFWIDTH KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
#: Whether a character continues the word before it, is part of one in a script with spaces, is a word of its own, ends
#: one, or is invisible.
_MARK, _LETTER, _ALONE, _SPACE, _NOTHING = range(5)
#: Characters that join or separate letters within a word.
_JOINERS = "\u200c\u200d"


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case and composed (NFC, and Unicode's folding of case).

    Consecutive letters and digits are a word. In scripts without spaces, such as Chinese, Japanese or Thai, each letter
    is a word, with its marks; so is each sign: `[]` and `{}` have no word in common.

    >>> words("Return x_1 + {};")
    ['return', 'x', '_', '1', '+', '{', '}', ';']
    >>> words("Привет, 東京")
    ['привет', ',', '東', '京']
    """
    found: list[list[str]] = []
    # Whether the last word is still open, and whether a letter would continue it.
    open_, goes_on = False, False
    for character in unicodedata.normalize("NFC", stream_safe(text)).casefold():
        kind = _kind(character)
        if kind == _NOTHING:
            continue
        if open_ and (kind == _MARK or (kind == _LETTER and goes_on)):
            found[-1].append(character)
            continue
        open_ = kind != _SPACE
        if open_:
            found.append([character])
        goes_on = kind in (_LETTER, _MARK)
    return ["".join(word) for word in found]


@lru_cache(maxsize=65536)
def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "M" or character in _JOINERS:
        return _MARK
    if category == "Cf":
        return _NOTHING
    if category[0] in "LN":
        return _ALONE if unicodedata.name(character, "").startswith(_UNSPACED) else _LETTER
    return _SPACE if category[0] in "ZC" else _ALONE
