"""What targets scored on each row, put side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fixtures import Limits

from registry.errors import Invalid
from registry.rows.comparing import row_values
from registry.rows.comparing.row_values import read_values
from sdk.schemas.evaluation import RowScore


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


def test_more_than_can_be_compared_is_not_even_read(limits: Limits) -> None:
    limits(row_values, MOST_WORK=30)

    def endless() -> Iterator[RowScore]:
        number = 0
        while True:
            yield from rows(number)
            number += 1

    with pytest.raises(Invalid, match="b has scores of more than 10 rows, too many for so many targets; compare fewer"):
        read_values([("a", rows(*range(10))), ("b", endless()), ("c", endless())], "loss")
