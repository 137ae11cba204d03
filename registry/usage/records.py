"""How much of the database a row takes: by one measure, kept with the row, so that what is charged, given back and
counted again is the same number.

>>> record_bytes({"lr": 0.1}, None, "café")
216
"""

from __future__ import annotations

import json
from typing import Any

#: What a row takes beside its JSON and its texts: keys, times, indexes.
ROW_BYTES = 200


def record_bytes(*values: Any) -> int:
    """Return how many bytes of the database a row with these values takes: JSON as it is written, a text as UTF-8,
    bytes as they are; None takes nothing.
    """
    return ROW_BYTES + sum(_length(value) for value in values)


def _length(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass"))
    # Only ASCII, as the columns are written.
    return len(json.dumps(value))
