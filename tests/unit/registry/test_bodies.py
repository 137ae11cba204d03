"""The one place where JSON comes in."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.bodies import MAX_DEPTH, parse_strictly
from registry.errors import Invalid

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
)


@given(VALUES)
def test_plain_json_comes_through_as_it_is(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_strictly(text.encode()) == value


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_invalid(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        parse_strictly(body)


def test_the_depth_is_bounded() -> None:
    parse_strictly(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for deep in (MAX_DEPTH + 1, 1_000, 200_000):
        with pytest.raises(Invalid, match="deep"):
            parse_strictly(b"[" * deep + b"]" * deep)
        with pytest.raises(Invalid, match="deep"):
            parse_strictly(b'{"a":' * deep + b"1" + b"}" * deep)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "-1e400", "9223372036854775808", "1" * 5000])
def test_numbers_that_nothing_can_hold_are_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_strictly(f'{{"a": [{text}]}}'.encode())


@pytest.mark.parametrize("text", [r'"\u0000"', r'"\ud83d"', r'"\ude00 x"', r'{"\udfff": 1}', r'[{"a": {"\u0000": 1}}]'])
def test_texts_that_nothing_can_keep_are_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="NUL or half a surrogate pair"):
        parse_strictly(text.encode())


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert parse_strictly(rb'"\ud83d\ude00"') == "\U0001f600"


def test_a_key_that_stands_twice_is_named() -> None:
    with pytest.raises(Invalid, match="'rank' twice"):
        parse_strictly(b'{"spec": {"rank": 1, "alpha": 2, "rank": 3}}')
