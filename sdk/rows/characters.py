"""Characters that a text should not have, and the scripts of its letters.

>>> odd_characters("zero\\u200bwidth, NUL \\x00")
['U+0000', 'U+200B ZERO WIDTH SPACE']
>>> odd_characters("نمی\\u200cخواهم")
[]
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache

#: Control characters except tab and line ends; characters that have no width or change the direction of writing; and
#: those that stand for bytes that could not be read. Joiners have a use in Persian, Hindi and emoji; they are odd after
#: Latin letters.
_ODD = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffd]"
    "|(?<=[\x00-\u024f])[\u200c\u200d]"
)
_ODD_ASCII = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: The scripts of letters whose Unicode names begin with something else.
_SCRIPTS = {"CJK": "Han", "IDEOGRAPHIC": "Han", "KANGXI": "Han", "HALFWIDTH": "Katakana", "MODIFIER": "Common"}


def has_odd(text: str) -> bool:
    """Whether a text has an odd character."""
    return (_ODD_ASCII if text.isascii() else _ODD).search(text) is not None


def odd_characters(text: str) -> list[str]:
    """Return the odd characters of a text, each once, by number and name."""
    return [f"U+{ord(one):04X} {unicodedata.name(one, '')}".rstrip() for one in sorted(set(_ODD.findall(text)))]


def scripts_of(counts: Mapping[int, int]) -> dict[str, float]:
    """Return each script's share among letters, the largest first; `counts` is how often each code point occurs."""
    scripts: Counter[str] = Counter()
    for point, count in counts.items():
        if (script := _script(point)) is not None:
            scripts[script] += count
    total = sum(scripts.values())
    return {script: count / total for script, count in scripts.most_common()}


@cache
def _script(point: int) -> str | None:
    character = chr(point)
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    first = name.partition(" ")[0].partition("-")[0]
    return _SCRIPTS.get(first, first.capitalize() or "Other")
