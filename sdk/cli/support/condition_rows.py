"""What scores depend on, as rows of a table.

>>> condition_rows({"loss_on": "all", "stop_ids": [0, 2], "dtype": "", "metrics": {"words": "2"}, "tokenizer": "ab" * 32})
[['loss_on', 'all'], ['stop_ids', '0, 2'], ['metrics.words', '2'], ['tokenizer', 'abababababab']]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Characters of a digest that are shown, as refs take them.
_SHOWN = 12


def condition_rows(conditions: Mapping[str, Any]) -> list[list[str]]:
    """Return name and value of each condition that isn't empty; one with parts becomes a row for each part."""
    rows = []
    for name, value in conditions.items():
        if isinstance(value, dict):
            rows += condition_rows({f"{name}.{part}": inner for part, inner in value.items()})
        elif value is True or value is False:
            rows.append([name, "yes" if value else "no"])
        elif value not in (None, "", [], 0):
            rows.append([name, ", ".join(map(_brief, value)) if isinstance(value, list) else _brief(value)])
    return rows


def _brief(value: object) -> str:
    text = str(value)
    return text[:_SHOWN] if _DIGEST.fullmatch(text) else text
