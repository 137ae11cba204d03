"""Which paths a version's files may have.

>>> check_path("tokenizer/vocab.json")
'tokenizer/vocab.json'
"""

from __future__ import annotations

import re

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")


def check_path(path: str) -> str:
    """Return `path` if it is a relative POSIX path of plain segments; it can't leave the folder, hide a file or collide.

    Raises ValueError otherwise.
    """
    segments = path.split("/")
    if len(path) > 1000 or len(segments) > 16 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise ValueError(f"{path[:80]!a} is not a file path allowed in a version")
    return path
