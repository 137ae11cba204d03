"""Which columns of a dataset become which keys of a row, as in `--columns`.

>>> parse_columns("completion=answer, prompt=question")
{'prompt': 'question', 'completion': 'answer'}
>>> canonical_columns("completion=answer, prompt=question")
'prompt=question,completion=answer'
>>> picked({"id": 7, "question": "q", "answer": "a"}, {"prompt": "question", "completion": "answer"})
{'prompt': 'q', 'completion': 'a'}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: All keys of rows of any shape, in the order in which they are written.
KEYS = (
    "prompt", "completion", "chosen", "rejected", "messages", "tools", "text", "label",
    "instruction", "input", "output", "conversations", "system", "choices", "answer", "references",
)  # fmt: skip
#: Keys that some rows of a file have and others don't.
_OPTIONAL = frozenset({"tools", "input", "system"})
_EXAMPLE = "prompt=question,completion=answer"
#: The most keys that an error names.
_NAMED = 8


def parse_columns(text: str) -> dict[str, str]:
    """Return the column of each key. Raises ValueError with what is wrong with the text."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column:
            raise ValueError(f"{part.strip()[:80]!a} is not KEY=COLUMN; write columns as {_EXAMPLE}")
        if key not in KEYS:
            raise ValueError(f"{key[:80]!a} is not a key of a row; map columns to {', '.join(KEYS)}, as {_EXAMPLE}")
        if key in found:
            raise ValueError(f"the key {key!r} has two columns; give each key one")
        if column in found.values():
            raise ValueError(f"the column {column[:80]!a} is given to two keys; give each column to one")
        found[key] = column
    return {key: found[key] for key in KEYS if key in found}


def canonical_columns(text: str) -> str:
    """Return columns as they are recorded: in a fixed order and without spaces. Raises ValueError as `parse_columns` does."""
    return ",".join(f"{key}={column}" for key, column in parse_columns(text).items())


def picked(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with its columns under their keys; other columns are left out, as requested.

    Raises ValueError for a row without one of the columns, as the rest of a sentence about the row.
    """
    for key, column in columns.items():
        if column not in row and key not in _OPTIONAL:
            raise ValueError(f"has no column `{column[:80]}` for `{key}`, but {named(row)}")
    # Values that a CSV file leaves empty are missing in most rows.
    return {
        key: row[column]
        for key, column in columns.items()
        if column in row and (key not in _OPTIONAL or row[column] != "")
    }


def named(row: Iterable[Any]) -> str:
    """Name the keys of a row for an error."""
    keys = [f"`{str(key)[:80]}`" for key in row]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"the keys {', '.join(keys[:_NAMED])}{more}" if keys else "no keys"


def advice(row: Iterable[Any]) -> str:
    """Say how the keys of a row can be mapped."""
    keys = [str(key) for key in row if not set(str(key)) & {",", "="}]
    example = f"prompt={keys[0][:80]},completion={keys[1][:80]}" if len(keys) > 1 else _EXAMPLE
    return f"say which they are, as with --columns {example}"
