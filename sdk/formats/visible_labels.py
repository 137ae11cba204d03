"""Texts that people choose and others read: every character must be visible, and look like what it is.

>>> parse_label("Anaïs of team 2")
'Anaïs of team 2'
>>> same_label("CI  Review"), same_label("\uff43i review")
('ci review', 'ci review')
"""

from __future__ import annotations

import re
import unicodedata

#: Letters and marks that fonts show as nothing, or as a space.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def parse_label(text: str) -> str:
    """Return `text` unless it has characters that can't be seen, or spaces at its ends. Raises ValueError."""
    # Control, format and direction characters, and every space but the plain one, are not printable.
    if not text.isprintable() or _UNSEEN.search(text) is not None:
        raise ValueError(
            f"{text[:40]!a} has characters that can't be seen; use letters, digits, spaces and punctuation"
        )
    if not text or text != text.strip():
        raise ValueError(f"{text[:40]!a} is empty, or begins or ends with a space; leave the space out")
    return text


def same_label(text: str) -> str:
    """Return the same text for names that people would take for the same: case, width and repeated spaces make no
    difference.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
