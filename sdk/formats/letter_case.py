"""Letters that `re.IGNORECASE` treats as equal.

>>> sorted(same_letters("s")), sorted(same_letters("7"))
(['S', 's', 'ſ'], ['7'])
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

#: All letters that have case are below this.
_CASED_BELOW = 0x1E944


@lru_cache(maxsize=4096)
def same_letters(letter: str) -> tuple[str, ...]:
    """Return a letter and all letters that differ from it only in case."""
    if letter not in _cased():
        return (letter,)
    return tuple(re.findall(re.escape(letter), _cased(), re.IGNORECASE))


@cache
def _cased() -> str:
    letters = map(chr, range(_CASED_BELOW))
    return "".join(letter for letter in letters if letter.lower() != letter or letter.upper() != letter)
