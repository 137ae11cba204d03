"""Letters that `re.IGNORECASE` treats as equal.

>>> sorted(same_letters("s")), sorted(same_letters("7"))
(['S', 's', 'ſ'], ['7'])
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache, lru_cache

# The library's own tables, so that letters are equal here if they are for `re`.
from _sre import unicode_tolower as _lower  # type: ignore[import-not-found]  # isort: skip
from re._casefix import _EXTRA_CASES  # type: ignore[import-not-found]  # isort: skip

#: All letters that have case are below this.
_CASED_BELOW = 0x1E944


@lru_cache(maxsize=4096)
def same_letters(letter: str) -> tuple[str, ...]:
    """Return a letter and all letters that differ from it only in case."""
    lower = _lower(ord(letter))
    return tuple(
        sorted(
            {chr(same) for each in (lower, *_EXTRA_CASES.get(lower, ())) for same in (each, *_uppers().get(each, ()))}
        )
    )


@cache
def _uppers() -> dict[int, list[int]]:
    """Return the letters by their lower case, without those that are lower case themselves."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for code in range(_CASED_BELOW):
        if (lower := _lower(code)) != code:
            found[lower].append(code)
    return found
