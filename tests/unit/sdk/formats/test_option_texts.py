"""Lists of numbers and values of modules as one text: what they mean, and that they cost no more than their length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import require_linear, steps_of

from sdk.formats.option_texts import (
    MOST_NUMBERS,
    canonical_numbers,
    parse_numbers,
    parse_values,
    same_module,
    write_numbers,
)

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=8)


@given(RANGES)
def test_numbers_are_those_of_all_ranges_once_and_sorted(ranges: list[tuple[int, int]]) -> None:
    text = ", ".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    meant = sorted({number for first, more in ranges for number in range(first, first + more + 1)})
    assert parse_numbers(text) == meant
    assert canonical_numbers(text) == write_numbers(meant)
    assert parse_numbers(write_numbers(meant)) == meant


def test_lengths_of_all_ranges_together_are_bounded() -> None:
    assert len(parse_numbers("0-65535")) == MOST_NUMBERS
    for text in ("0-65535," * 1777 + "1", "0-65535,3", "0-40000,20000-50000", "0-65536"):
        with pytest.raises(ValueError, match="more than 65536 numbers"):
            parse_numbers(text)


def test_ranges_are_not_counted_out_for_their_canonical_text() -> None:
    assert steps_of(lambda: canonical_numbers("0-65535")) < 500
    assert steps_of(lambda: canonical_numbers("0-65535," * 1777 + "1")) < 500


def numbers(count: int) -> Callable[[], object]:
    text = ",".join(str(2 * number) for number in range(count))
    return lambda: canonical_numbers(text)


def values(count: int) -> Callable[[], object]:
    text = ",".join(f"layers.{number}.proj={number % 7 + 1}" for number in range(count))
    return lambda: parse_values(text)


@pytest.mark.parametrize("make", [numbers, values])
def test_work_grows_with_the_length(make: Callable[[int], Callable[[], object]]) -> None:
    require_linear(make, 60)


def test_names_of_one_module_are_found() -> None:
    with pytest.raises(ValueError, match=r"b and a\.b mean the same module"):
        parse_values("c=1,a.b=2,b=3")
    assert same_module(["a.b", "ab", "b.a"]) is None


def test_too_many_values_are_refused_before_they_are_read() -> None:
    text = ",".join(f"m{number}=1" for number in range(2000))
    with pytest.raises(ValueError, match="more than 1024 modules"):
        parse_values(text)
    assert steps_of(lambda: parse_values(text)) < 500
