"""Rows of other programs' shapes and files: what they are to a training, and the same however they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fixtures import Limits
from support.trainings import save_jsonl

from sdk.errors import InvalidData, InvalidInput
from sdk.formats import row_files as reader
from sdk.formats.columns import parse_columns
from sdk.formats.rows import Row, RowsError, check_rows, text_values
from sdk.rows.texts import asked_and_answered
from sdk.schemas.training import TrainingSpec
from sdk.validation import build, check_data, check_objective

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)


def read(path: Path, columns: str | None = None) -> list[Row]:
    keys = None if columns is None else parse_columns(columns)
    return list(check_rows(text_values(path, keys), columns=keys))


def of(path: Path, *rows: Any, columns: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [(row.shape, row.fields) for row in read(path, columns)]


class TestAlpaca:
    @pytest.mark.parametrize(
        ("row", "prompt"),
        [
            ({"instruction": "q", "input": "", "output": "a"}, [USER]),
            ({"instruction": "q", "output": "a"}, [USER]),
            ({"instruction": "q", "input": None, "output": "a", "system": ""}, [USER]),
            ({"instruction": "Add.", "input": "1 + 1", "output": "a"}, [{"role": "user", "content": "Add.\n1 + 1"}]),
            ({"instruction": "q", "output": "a", "system": "s"}, [{"role": "system", "content": "s"}, USER]),
        ],
    )
    def test_it_is_a_question_with_its_answer(self, row: Any, prompt: Any, tmp_path: Path) -> None:
        assert of(tmp_path / "rows", row) == [("prompt", {"prompt": prompt, "completion": [ANSWER]})]

    def test_a_csv_file_is_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "rows"
        path.write_text("instruction,input,output\nq,,a\n")
        assert read(path)[0].fields == {"prompt": [USER], "completion": [ANSWER]}


class TestShareGpt:
    def test_it_is_a_conversation(self, tmp_path: Path) -> None:
        turns = [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a", "weight": 0},
            {"from": "user", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "assistant", "value": "a"},
        ]
        messages = [
            {"role": "system", "content": "s"},
            USER,
            {**ANSWER, "weight": 0},
            USER,
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
            },
            {"role": "tool", "content": "2"},
            ANSWER,
        ]
        tools = [{"name": "f"}]
        row = {"conversations": turns, "system": "s", "tools": json.dumps(tools)}
        assert of(tmp_path / "rows", row) == [("messages", {"messages": messages, "tools": tools})]
        # As the same conversation written as messages.
        assert of(tmp_path / "rows", {"messages": messages, "tools": tools})[0][1]["messages"] == messages


class TestColumns:
    @pytest.mark.parametrize(
        ("row", "columns", "same"),
        [
            ({"q": "a", "r": "b", "id": 7}, "prompt=q,completion=r", {"prompt": "a", "completion": "b"}),
            (
                {"completion": "a", "prompt": "b"},
                "prompt=completion,completion=prompt",
                {"prompt": "a", "completion": "b"},
            ),
            ({"dialog": [USER, ANSWER], "id": 7}, "messages=dialog", {"messages": [USER, ANSWER]}),
            ({"body": "a", "title": "b"}, "text=body", {"text": "a"}),
            ({"body": "a", "mood": 1}, "text=body,label=mood", {"text": "a", "label": "1"}),
            ({"conversations": [USER, ANSWER]}, "messages=conversations", {"messages": [USER, ANSWER]}),
            ({"q": "a", "r": "b"}, "instruction=q,input=none,output=r", {"instruction": "a", "output": "b"}),
        ],
    )
    def test_rows_are_those_that_have_their_keys(self, row: Any, columns: str, same: Any, tmp_path: Path) -> None:
        assert of(tmp_path / "rows", row, columns=columns) == of(tmp_path / "rows", same)

    def test_what_is_said_of_a_file_is_in_one_order(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("q,a,id\nx,y,7\n")
        found = check_data(path, columns=" completion=a , prompt=q")
        assert (found.columns, found.shape, found.rows) == ("prompt=q,completion=a", "prompt-completion", 1)

    def test_a_spec_takes_them_as_a_text_or_a_table(self) -> None:
        text = "prompt=q,completion=a"
        for said in (text, "completion=a, prompt=q", {"completion": "a", "prompt": "q"}):
            assert build(TrainingSpec, columns=said).columns == text
        with pytest.raises(ValueError, match="'question' is not a key of a row"):
            TrainingSpec(columns="question=prompt")


class TestFiles:
    def test_a_list_is_the_same_as_lines(self, tmp_path: Path) -> None:
        rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
        path = tmp_path / "rows"
        for text in (json.dumps(rows), json.dumps(rows, indent=2), "\ufeff \n" + json.dumps(rows) + "\n\n"):
            path.write_text(text, encoding="utf-8")
            assert [(row.where, row.fields) for row in read(path)] == [("row 1", rows[0]), ("row 2", rows[1])]
            assert check_data(path).format == "json"

    @given(values=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40))
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_list_is_read_whatever_part_of_it_is_looked_at(
        self, values: list[Any], indent: int | None, chunk: int, tmp_path: Path, limits: Limits
    ) -> None:
        path = tmp_path / "list"
        path.write_text(json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8", newline="")
        limits(reader, _CHUNK_CHARACTERS=chunk)
        assert list(reader.json_list(path)) == values

    def test_lines_are_counted_whatever_part_is_looked_at(self, tmp_path: Path, limits: Limits) -> None:
        path = tmp_path / "list"
        path.write_text('[{"a":\n1},\n\n{"a":\n2},\n{"a" 3}]')
        for chunk in range(1, 30):
            limits(reader, _CHUNK_CHARACTERS=chunk)
            with pytest.raises(ValueError, match="delimiter in line 6"):
                list(reader.json_list(path))

    def test_a_list_takes_no_more_memory_than_its_values(self, tmp_path: Path) -> None:
        import tracemalloc

        path = tmp_path / "rows.json"
        with path.open("w") as file:
            file.write("[" + ",\n".join(json.dumps({"text": "x" * 1000}) for _ in range(20_000)) + "]")
        tracemalloc.start()
        assert check_data(path).rows == 20_000
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 8_000_000


class TestPreferences:
    @pytest.mark.parametrize(
        ("row", "columns", "fields"),
        [
            ({"prompt": "q", "chosen": "a", "rejected": "b"}, None, {"prompt": "q", "chosen": "a", "rejected": "b"}),
            (
                {"question": "q", "good": "a", "bad": "b", "score": 3},
                "rejected=bad,prompt=question,chosen=good",
                {"prompt": "q", "chosen": "a", "rejected": "b"},
            ),
            (
                {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]},
                None,
                {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "b"}]},
            ),
        ],
    )
    def test_a_prompt_has_two_answers(self, row: Any, columns: str | None, fields: Any, tmp_path: Path) -> None:
        assert of(tmp_path / "rows", row, columns=columns) == [("preference", fields)]
        found = check_data(tmp_path / "rows", columns=columns)
        assert (found.shape, found.rows) == ("preference", 1)

    def test_of_its_columns_a_completion_can_be_made(self, tmp_path: Path) -> None:
        row = {"prompt": "q", "chosen": "a", "rejected": "b"}
        columns = "prompt=prompt,completion=chosen"
        assert of(tmp_path / "rows", row, columns=columns) == [("prompt", {"prompt": "q", "completion": "a"})]

    def test_a_csv_names_the_answer_that_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("prompt,chosen,rejected\nq,a,\n")
        with pytest.raises(InvalidData, match="line 2 has an empty `rejected`"):
            check_data(tmp_path / "rows.csv")


LIKED = {"prompt": "q", "completion": "a", "label": True}


class TestAnswersWithLabels:
    @pytest.mark.parametrize(
        "row", [LIKED, {**LIKED, "label": False}, {"prompt": [USER], "completion": [ANSWER], "label": False}]
    )
    def test_an_answer_is_desirable_or_not(self, row: Any, tmp_path: Path) -> None:
        assert of(tmp_path / "rows", row) == [("unpaired-preference", row)]
        asked, answered = asked_and_answered(read(tmp_path / "rows")[0])
        assert ("a" in asked, answered) == (True, str(row["label"]).lower())

    def test_a_csv_file_says_true_and_false(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("ask,answer,good\nq,a,true\nq,b,false\n")
        columns = "prompt=ask,completion=answer,label=good"
        assert [row.fields["label"] for row in read(path, columns)] == [True, False]
        found = check_data(path, columns=columns)
        assert (found.shape, found.rows, found.labels) == ("unpaired-preference", 2, {"true", "false"})
        # Of texts alone they are names, as ever.
        path.write_text("text,label\nq,true\nr,false\n")
        assert [row.fields["label"] for row in read(path)] == ["true", "false"]

    @pytest.mark.parametrize("label", ["true", "True", 1, 0.5, [True]])
    def test_any_other_label_is_refused(self, label: Any, tmp_path: Path) -> None:
        with pytest.raises(RowsError, match=r"has a `label` that is neither true nor false but .*, next to `prompt`"):
            of(tmp_path / "rows", {**LIKED, "label": label})

    def test_both_labels_are_needed(self, tmp_path: Path) -> None:
        path = save_jsonl(tmp_path / "rows.jsonl", [LIKED, {**LIKED, "completion": "b"}])
        with pytest.raises(InvalidData, match="all rows have the label 'true', which teaches nothing"):
            check_objective(None, [check_data(path)])
        more = save_jsonl(tmp_path / "more.jsonl", [{**LIKED, "label": False}])
        assert check_objective(None, [check_data(path), check_data(more)]) == "kto"


CHOICES = {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1}


def save(path: Path, *rows: Any) -> Path:
    return save_jsonl(path, rows)


def test_the_answer_is_a_number_or_the_text(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", CHOICES, {**CHOICES, "answer": " 3"}, {**CHOICES, "answer": 0})
    rows = list(check_rows(text_values(path)))
    assert [(row.shape, row.fields["answer"]) for row in rows] == [("choices", 1), ("choices", 0), ("choices", 0)]
    assert asked_and_answered(rows[0]) == ("2 + 2 =", " 4")
    assert check_data(path).shape == "choices"


def test_a_text_that_looks_like_a_number_is_a_text(tmp_path: Path) -> None:
    (row,) = check_rows(text_values(save(tmp_path / "rows.jsonl", {**CHOICES, "choices": ["1", "0"], "answer": "1"})))
    assert row.fields["answer"] == 0


def test_columns_say_which_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", {"id": 7, "question": "q", "options": ["a", "b"], "gold": 1})
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
        ({"completion": "a"}, "has keys besides `prompt` and `choices` and `answer` that would be lost: `completion`"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=f"line 2 .*{said}"):
        check_data(save(tmp_path / "rows.jsonl", CHOICES, {**CHOICES, **change}))


def test_nothing_is_trained_on_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="are for evaluations, and nothing is learnt of them; give other rows"):
        check_objective(None, [check_data(save(tmp_path / "rows.jsonl", CHOICES))])


REFERENCES = {"prompt": "Translate: chat", "references": ["cat", "a cat"]}
CHAT = [{"role": "user", "content": "Translate: chat"}]


def test_a_row_is_a_prompt_and_its_references(tmp_path: Path) -> None:
    path = save(
        tmp_path / "rows.jsonl", REFERENCES, {**REFERENCES, "references": ["cat"]}, {**REFERENCES, "prompt": CHAT}
    )
    rows = list(check_rows(text_values(path)))
    assert [(row.shape, row.fields["references"]) for row in rows] == [
        ("references", ["cat", "a cat"]),
        ("references", ["cat"]),
        ("references", ["cat", "a cat"]),
    ]
    assert asked_and_answered(rows[0]) == ("Translate: chat", "cat")
    assert check_data(path).shape == "references"


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", {"question": "q", "answers": ["a", "b"], "id": 7})
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
        (
            {"completion": "a"},
            "has keys besides `prompt` and `references` and `tools` that would be lost: `completion`",
        ),
        ({"references": None, "completion": ["cat", "a cat"]}, "several right answers are called `references`"),
        ({"references": None, "completion": "cat", "reference": "a"}, "`reference`"),
    ],
)
def test_what_is_wrong_with_references_is_said(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(RowsError, match=fault):
        list(check_rows(text_values(save(tmp_path / "rows.jsonl", {**REFERENCES, **change}))))
