"""Rows of multiple choice: the answer by number or text, and what is wrong said before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.errors import InvalidData, InvalidInput
from sdk.formats.columns import parse_columns
from sdk.formats.rows import check_rows, text_values
from sdk.rows.texts import asked_and_answered
from sdk.validation import check_data, check_objective

ROW = {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_answer_is_a_number_or_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROW, {**ROW, "answer": " 3"}, {**ROW, "answer": 0})
    rows = list(check_rows(text_values(path)))
    assert [(row.shape, row.fields["answer"]) for row in rows] == [("choices", 1), ("choices", 0), ("choices", 0)]
    assert asked_and_answered(rows[0]) == ("2 + 2 =", " 4")
    assert check_data(path).shape == "choices"


def test_a_text_that_looks_like_a_number_is_a_text(tmp_path: Path) -> None:
    (row,) = check_rows(text_values(write(tmp_path / "rows.jsonl", {**ROW, "choices": ["1", "0"], "answer": "1"})))
    assert row.fields["answer"] == 0


def test_columns_say_which_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"id": 7, "question": "q", "options": ["a", "b"], "gold": 1})
    keys = parse_columns("prompt=question,choices=options,answer=gold")
    (row,) = check_rows(text_values(path, keys), columns=keys)
    assert row.fields == {"prompt": "q", "choices": ["a", "b"], "answer": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 2}, "has the `answer` 2, and its 2 choices are numbered from 0 to 1"),
        ({"answer": -1}, "has the `answer` -1"),
        ({"answer": "4"}, "has the `answer` '4', which is none of its choices"),
        ({"answer": True}, "neither a number nor a text but true or false"),
        ({"answer": 1.0}, "neither a number nor a text but a decimal number"),
        ({"answer": None}, "has no `answer`; give the number"),
        ({"choices": ["a"]}, "not a list of 2 to 100 texts"),
        ({"choices": "a,b"}, "not a list of 2 to 100 texts"),
        ({"choices": ["a"] * 101}, "not a list of 2 to 100 texts"),
        ({"choices": ["a", "a"]}, "has two choices that are the same"),
        ({"choices": ["a", ""]}, r"has an empty `choices\[1\]`"),
        ({"choices": ["a", 7]}, r"has a `choices\[1\]` that is not text but a whole number"),
        ({"prompt": None}, "has no `prompt`"),
        ({"completion": "a"}, "has keys beside `prompt` and `choices` and `answer` that would be lost: `completion`"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=f"line 2 .*{said}"):
        check_data(write(tmp_path / "rows.jsonl", ROW, {**ROW, **change}))


def test_nothing_is_trained_on_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="are for evaluations, and nothing is learnt of them"):
        check_objective(None, [check_data(write(tmp_path / "rows.jsonl", ROW))])
