"""What a dataset says of the rows that were scored: their groups, and what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.fixtures import Limits
from support.scored_rows import write_file
from support.trainings import save_jsonl

from registry.errors import Invalid
from registry.rows import service
from registry.rows.comparing import row_values
from registry.rows.comparing.row_values import read_values
from registry.rows.groups import groups_of
from registry.rows.orders import texts_of
from registry.rows.service import RowReading
from sdk.formats.rows import group_of
from sdk.schemas.evaluation import RowScore

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: Any) -> Path:
        return save_jsonl(tmp_path / "rows.jsonl", rows)

    return write


def groups(path: Path, rows: npt.NDArray[np.int64]) -> list[int]:
    return groups_of(path, "repo", rows, value_of=group_of).numbers.tolist()


class TestGroups:
    def test_rows_with_the_same_text_or_number_are_one(self, write: Write) -> None:
        path = write({"repo": "a"}, {"repo": 7}, {"repo": "b"}, {"repo": "7"}, {"repo": "a"})
        assert groups(path, np.array([0, 1, 3, 4])) == [0, 1, 1, 0]

    def test_true_and_false_are_two(self, write: Write) -> None:
        path = write({"repo": True}, {"repo": False}, {"repo": True}, {"repo": "true"})
        assert groups(path, np.arange(4)) == [0, 1, 0, 0]

    @pytest.mark.parametrize("nothing", [{}, {"repo": None}, {"repo": ""}, {"repo": ["a"]}, {"repo": 1.5}])
    def test_rows_without_one_are_no_group(self, write: Write, nothing: dict[str, Any]) -> None:
        path = write({"repo": "a"}, nothing, {"repo": ""})
        with pytest.raises(
            Invalid, match=r"line 2 has .*`repo`.* that rows are grouped by.*; name another column"
        ) as caught:
            groups(path, np.array([0, 1]))
        assert caught.value.param == "by"
        assert groups(path, np.array([0])) == [0]


USER, ANSWER, IGNORED = (
    {"role": "user", "content": "asked"},
    {"role": "assistant", "content": "expected"},
    {"role": "assistant", "content": "not learnt", "weight": 0},
)


class TestTexts:
    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": "asked", "completion": "expected"},
            {"prompt": "asked", "chosen": "expected", "rejected": "other"},
            {"prompt": [USER], "completion": [ANSWER]},
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "other"}]},
            {"messages": [USER, ANSWER]},
            {"messages": [USER, ANSWER, {"role": "user", "content": "thanks"}]},
            {"messages": [USER, ANSWER, {"role": "user", "content": "again?"}, IGNORED]},
            {"messages": json.dumps([USER, ANSWER])},
            {"conversations": [{"from": "human", "value": "asked"}, {"from": "gpt", "value": "expected"}]},
            {"text": "asked", "label": "expected"},
            {"prompt": "asked", "choices": ["other", "expected"], "answer": 1},
        ],
        ids=lambda row: "-".join(row),
    )
    def test_of_each_shape_what_was_asked_and_what_an_answer_should_be(self, write: Write, row: dict[str, Any]) -> None:
        assert texts_of(write({"skipped": 1}, row), None, [1]) == {1: ("asked", "expected")}

    def test_an_instruction_is_asked_with_its_input(self, write: Write) -> None:
        path = write({"instruction": "add", "input": "2 and 2", "output": "4"})
        (asked, expected) = texts_of(path, None, [0])[0]
        assert ("add" in asked, "2 and 2" in asked, expected) == (True, True, "4")

    def test_columns_say_what_is_which(self, write: Write) -> None:
        path = write({"q": "asked", "a": "expected", "prompt": "something else"})
        assert texts_of(path, {"prompt": "q", "completion": "a"}, [0]) == {0: ("asked", "expected")}

    def test_a_text_alone_expects_nothing_and_a_row_that_can_t_be_used_is_left_out(self, write: Write) -> None:
        assert texts_of(write({"text": "long " * 1000}, {"text": 3}), None, [1, 0]) == {
            0: (("long " * 1000)[:1999] + "…", "")
        }


def rows(*numbers: int, tokens: int = 2) -> list[RowScore]:
    return [RowScore(row=number, loss_sum=float(number), tokens=tokens, scores={"f": number % 2}) for number in numbers]


def test_rows_are_matched_by_their_numbers() -> None:
    found = read_values([("a", rows(0, 3, 5, 9)), ("b", rows(3, 4, 9, 11)), ("c", rows(1, 3, 9))], "loss")
    assert found.rows.tolist() == [3, 9]
    assert found.sums.tolist() == [[3.0, 9.0]] * 3
    assert found.masses.tolist() == [2.0, 2.0]
    assert found.scores().tolist() == [[1.5, 4.5]] * 3
    # 0, 1, 4, 5 and 11.
    assert found.left_out == 5
    assert found.step is None


def test_yes_and_no_are_told_by_what_is_there() -> None:
    assert read_values([("a", rows(0, 1)), ("b", rows(0, 1))], "f").step == 1.0


def test_rows_without_tokens_have_no_loss() -> None:
    with pytest.raises(Invalid, match="the rows of a have no 'loss'; they have: loss, f"):
        read_values([("a", rows(1, tokens=0)), ("b", rows(1))], "loss")


def test_what_no_row_has_alone_is_not_compared_row_by_row() -> None:
    with pytest.raises(
        Invalid, match=r"cider_d is a score of all rows together, of which none has its own; .* of: loss, f"
    ):
        read_values([("a", rows(0, 1)), ("b", rows(0, 1))], "cider_d")


def test_more_than_can_be_compared_is_not_even_read(limits: Limits) -> None:
    limits(row_values, MOST_WORK=30)

    def endless() -> Iterator[RowScore]:
        number = 0
        while True:
            yield from rows(number)
            number += 1

    with pytest.raises(Invalid, match="b has scores of more than 10 rows, too many for so many targets; compare fewer"):
        read_values([("a", rows(*range(10))), ("b", endless()), ("c", endless())], "loss")


def test_who_compares_each_with_one_other_reads_more_rows(tmp_path: Path, limits: Limits) -> None:
    limits(row_values, MOST_WORK=100)
    limits(service, MOST_WORK=100)
    targets = []
    for number in range(5):
        write_file(path := tmp_path / f"scores-{number}", rows(*range(20)))
        targets.append((f"member {number}", str(number), str(path)))
    reading = RowReading(apart=False)
    assert reading.row_values(targets, "loss", tmp_path).sums.shape == (5, 20)
    with pytest.raises(Invalid, match="more than 10 rows"):
        reading.values(targets, "loss", tmp_path)
