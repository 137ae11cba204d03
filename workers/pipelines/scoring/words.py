"""The words of a text in any alphabet, as what is generated is compared by."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

#: Raised with every change of what a word is; it stands with the scores. The first releases knew Latin letters alone.
WORDS_VERSION = 2
#: How the names of letters begin in scripts that put no spaces between words.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "HALFWIDTH KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
#: Whether a character goes on with the word before it, begins one in a script with spaces, or is a word of its own.
_MARK, _LETTER, _ALONE, _SPACE = range(4)


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case and composed (NFC, and Unicode's folding of case).

    Letters and digits that follow one another are a word. Of scripts without spaces, such as Chinese, Japanese or
    Thai, each letter is one, with the marks on it; so is each sign: `[]` and `{}` have no word in common.

    >>> words("Return x_1 + {};")
    ['return', 'x', '_', '1', '+', '{', '}', ';']
    >>> words("Привет, 東京")
    ['привет', ',', '東', '京']
    """
    found: list[str] = []
    goes_on = False
    for character in unicodedata.normalize("NFC", text).casefold():
        kind = _kind(character)
        if found and (kind == _MARK or (kind == _LETTER and goes_on)):
            found[-1] += character
            continue
        if kind != _SPACE:
            found.append(character)
        goes_on = kind == _LETTER
    return found


@lru_cache(maxsize=65536)
def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "M" or category == "Cf":
        return _MARK
    if category[0] in "LN":
        return _ALONE if unicodedata.name(character, "").startswith(_UNSPACED) else _LETTER
    return _SPACE if category[0] in "ZC" else _ALONE
