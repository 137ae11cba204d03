"""What an option varies over, as a text: each text is values, a range, or refused in one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import require_linear

from sdk.formats.axis_texts import RangeText, parse_axis_text

PARTS = st.text(st.characters(exclude_characters=",;.:[]", categories=["L", "N", "P"]), min_size=1, max_size=8)


@given(st.lists(PARTS, min_size=2, max_size=8), st.sampled_from([",", ";"]))
def test_values_are_those_between_separators(values: list[str], separator: str) -> None:
    assert parse_axis_text(f"{separator} ".join(values), separator=separator) == tuple(values)


@given(PARTS, PARTS, st.booleans(), st.none() | st.integers(2, 1000))
def test_a_range_is_read_as_it_is_written(low: str, high: str, log: bool, count: int | None) -> None:
    text = f"{low}..{high}{':log' if log else ''}{'' if count is None else f'[{count}]'}"
    assert parse_axis_text(text) == RangeText(low, high, log, count)


@given(st.text(",;.:[]log123e- ", max_size=12))
def test_any_other_text_is_refused_in_one_sentence_that_ends_with_advice(text: str) -> None:
    refused = ""
    try:
        parse_axis_text(text)
    except ValueError as error:
        refused = str(error)
    assert "\n" not in refused
    assert not refused or "; " in refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no value"),
        (" ", "there is no value"),
        ("1,2,", "value 3 of 3 is empty"),
        ("1,2..4", "'2..4' is a range among values"),
        ("1..", "'1..' is not a whole range"),
        ("..4", "'..4' is not a whole range"),
        ("1..4[3", "is not a whole range"),
        ("1..4[3]:log", "is not a whole range"),
        ("1..4:sqrt[3]", "'sqrt' is not a scale"),
        ("1..4[x]", "[x] is not how many"),
        ("1..4[]", "[] is not how many"),
        ("1..4[1]", "its count is 1; ask for [2] or more"),
        ("1..4[10000]", "there are 10,000 values; give at most 1,000"),
        (",".join(map(str, range(10_000))), "there are 10,000 values; give at most 1,000"),
    ],
)
def test_bad_texts_are_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="; ") as refused:
        parse_axis_text(text)
    assert message in str(refused.value)


def test_work_grows_with_the_length() -> None:
    require_linear(lambda count: lambda: parse_axis_text(",".join(["1"] * count)), 60)
