r"""What a dataset may be called: nothing that reads as a digest, a number or a path, and nothing that reads as another name.

Names may be of any alphabet. Letters that look like others are refused as far as that can be told without a table of all of
them: those in a compatibility form, alphabets that look alike within one word, and a name whose letters of another
alphabet all look like Latin ones.

>>> no_dataset_name("отзывы.jsonl"), no_dataset_name("日本 語"), no_dataset_name("é")
(None, None, None)
>>> no_dataset_name("reviews@v2")
"'reviews@v2' ends in a number, which a dataset gets from the registry"
>>> no_dataset_name("r\u0435views")
"'r\\u0435views' mixes alphabets whose letters look alike, LATIN and CYRILLIC"
"""

from __future__ import annotations

import re
import unicodedata

from sdk.formats.refs import is_folder, looks_like_digest
from sdk.formats.visible_labels import parse_label

_NUMBERED = re.compile(r"(.+)@v([1-9][0-9]{0,8})", re.DOTALL)
#: People shorten a digest to this many digits, although it takes 12 to look one up.
_SHORTENED = re.compile(r"[0-9a-f]{8,}", re.IGNORECASE)
#: Alphabets with letters that look like those of another of them, as Unicode's names of letters begin.
_ALIKE = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC")
#: Letters that are drawn as Latin ones.
_DRAWN_AS_LATIN = frozenset(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458\u04bb\u04cf\u0501\u051b\u051d"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408\u04c0\u051a\u051c"
    "\u03bd\u03bf\u03b9\u03c1\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
)


def split_dataset_name(text: str) -> tuple[str, int | None]:
    """Return the name of a dataset, and the number if it says which dataset of that name is meant.

    >>> split_dataset_name("reviews@v2"), split_dataset_name("reviews.jsonl")
    (('reviews', 2), ('reviews.jsonl', None))
    """
    match = _NUMBERED.fullmatch(text)
    return (text, None) if match is None else (match[1], int(match[2]))


def may_be_digest(text: str) -> bool:
    """Whether people may take a text for a digest or the beginning of one, so that no dataset is looked up by it as a name.

    >>> [may_be_digest(text) for text in ("3f1c2a9b", "3f1c2a9b7d20", "3f1c2a9b.jsonl", "facade")]
    [True, True, False, False]
    """
    return looks_like_digest(text) or _SHORTENED.fullmatch(text.strip()) is not None


def no_dataset_name(text: str) -> str | None:
    """Say why a text can't be the name of a dataset; None if it can, or is empty."""
    shown = ascii(text)
    # An escape has up to ten characters.
    shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
    if may_be_digest(text):
        return f"{shown} looks like a digest, and a dataset can't be named like one"
    if split_dataset_name(text)[1] is not None:
        return f"{shown} ends in a number, which a dataset gets from the registry"
    if is_folder(text) or "/" in text:
        return f"{shown} reads as a path or URL, and a dataset can't be named like one"
    if text and (unfit := _hard_to_read(text)) is not None:
        return f"{shown} {unfit}"
    return None


def _hard_to_read(text: str) -> str | None:
    """Say what people would not see in a name; None if they see what it is."""
    try:
        parse_label(text)
    except ValueError:
        return "has characters that can't be seen, or a space at an end"
    composed = unicodedata.normalize("NFC", text)
    if any(unicodedata.normalize("NFKC", letter) != letter for letter in composed if letter.isalnum()):
        return f"has letters that look like others; written plainly, it is {unicodedata.normalize('NFKC', text)!a}"
    every = {letter: _alphabet(letter) for letter in composed if not letter.isascii()}
    for word in re.split(r"[\W\d_]+", composed):
        found = {every.get(letter, "LATIN") for letter in word} - {None}
        if len(found) > 1:
            return f"mixes alphabets whose letters look alike, {' and '.join(one for one in _ALIKE if one in found)}"
    for alphabet in ("CYRILLIC", "GREEK"):
        letters = [letter for letter, of in every.items() if of == alphabet]
        if letters and _DRAWN_AS_LATIN.issuperset(letters):
            return f"looks as if it were written in Latin letters, and some are {alphabet}"
    return None


def _alphabet(letter: str) -> str | None:
    """Which of the alphabets that look alike a letter belongs to; None for any other."""
    begin = unicodedata.name(letter, "").partition(" ")[0]
    return begin if begin in _ALIKE else None
