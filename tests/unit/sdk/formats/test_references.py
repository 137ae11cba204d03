"""Rows with several references, as they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.formats.columns import parse_columns
from sdk.formats.rows import RowsError, check_rows, text_values
from sdk.rows.texts import asked_and_answered
from sdk.validation import check_data

ROW = {"prompt": "Translate: chat", "references": ["cat", "a cat"]}
CHAT = [{"role": "user", "content": "Translate: chat"}]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_is_a_prompt_and_its_references(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROW, {**ROW, "references": ["cat"]}, {**ROW, "prompt": CHAT})
    rows = list(check_rows(text_values(path)))
    assert [(row.shape, row.fields["references"]) for row in rows] == [
        ("references", ["cat", "a cat"]),
        ("references", ["cat"]),
        ("references", ["cat", "a cat"]),
    ]
    assert asked_and_answered(rows[0]) == ("Translate: chat", "cat")
    assert check_data(path).shape == "references"


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"question": "q", "answers": ["a", "b"], "id": 7})
    keys = parse_columns("prompt=question,references=answers")
    (row,) = check_rows(text_values(path, keys), columns=keys)
    assert row.fields == {"prompt": "q", "references": ["a", "b"]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"references": "cat"}, "has `references` that are not a list of 1 to 100 texts"),
        ({"references": []}, "has `references` that are not a list of 1 to 100 texts"),
        ({"references": ["a"] * 101}, "has `references` that are not a list of 1 to 100 texts"),
        ({"references": ["a", ""]}, r"has an empty `references\[1\]`"),
        ({"references": ["a", 7]}, r"has a `references\[1\]` that is not text but a whole number"),
        ({"prompt": None}, "has no `prompt`"),
        ({"prompt": []}, "`prompt`"),
        ({"tools": []}, "has `tools` for a prompt that is a text"),
        ({"completion": "a"}, "has keys beside `prompt` and `references` and `tools` that would be lost: `completion`"),
        ({"references": None, "completion": ["cat", "a cat"]}, "several right answers are called `references`"),
        ({"references": None, "completion": "cat", "reference": "a"}, "`reference`"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(RowsError, match=fault):
        list(check_rows(text_values(write(tmp_path / "rows.jsonl", {**ROW, **change}))))
