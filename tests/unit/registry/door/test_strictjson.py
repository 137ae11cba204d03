"""The one parser of JSON that comes in: what it refuses, and that its time is linear."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.door.strict_json import MAX_DEPTH, parse_strictly
from registry.errors import Invalid, TooLarge
from registry.http.bodies import MAX_VALUES

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
    for deep in (MAX_DEPTH + 1, 1_000, 90_000):
        with pytest.raises(Invalid, match="deep"):
            parse_strictly(b"[" * deep + b"]" * deep)
        with pytest.raises(Invalid, match="deep"):
            parse_strictly(b'{"a":' * deep + b"1" + b"}" * deep)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-Infinity",
        "1e400",
        "-1e400",
        "9223372036854775808",
        "-9223372036854775808",
        "1" * 5000,
        "1" * 250 + "e99",
        "1" * 400 + ".5",
    ],
)
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


class TestValues:
    def test_as_many_as_may_be_come_through_and_one_more_does_not(self) -> None:
        assert len(parse_strictly(b"[" + b",".join([b"0"] * (MAX_VALUES - 1)) + b"]")) == MAX_VALUES - 1
        with pytest.raises(TooLarge, match=f"{MAX_VALUES} values"):
            parse_strictly(b"[" + b",".join([b"0"] * MAX_VALUES) + b"]")

    @pytest.mark.parametrize("text", [r"[,{" * 40_000, r"\"[" * 100_000, "\\\\" * 100_000 + ",[" * 60_000])
    def test_what_stands_in_texts_is_not_counted(self, text: str) -> None:
        assert parse_strictly(f'{{"a": "{text}"}}'.encode()) == {"a": json.loads(f'"{text}"')}


#: What a hostile document of about so many bytes is made of, each a way to make a parser slow.
HOSTILE: dict[str, Callable[[int], str]] = {
    "one key many times": lambda size: "{" + ",".join(['"k":0'] * (size // 6)) + "}",
    "the last key twice": lambda size: "{" + ",".join(f'"{n:08}":0' for n in range(size // 13)) + ',"x":0,"x":0}',
    "many objects with a key twice": lambda size: "[" + ",".join(['{"k":0,"k":0}'] * (size // 14)) + "]",
    "digits": lambda size: f"[{'9' * size}]",
    "digits after the point": lambda size: f"[0.{'9' * size}]",
    "brackets": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "brackets that do not close": lambda size: "[" * size,
    "empty objects": lambda size: "[" + ",".join(["{}"] * (size // 3)) + "]",
    "escapes": lambda size: '"' + "\\u0041" * (size // 6) + '"',
    "quotes in a text without an end": lambda size: "[" * 64 + '"' + '\\"' * (size // 2),
    "commas in a text without an end": lambda size: '"' + "," * size,
    "texts without an end": lambda size: '",' * (size // 2),
    "blanks": lambda size: " " * size,
    "line feeds": lambda size: "\n" * size + "x",
    "wide text": lambda size: '"\U0001f600' + "a" * size + '"',
}


@pytest.mark.parametrize("max_values", [1, 10**9])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_the_time_grows_no_faster_than_the_length(make: Callable[[int], str], max_values: int) -> None:
    def takes_s(size: int) -> float:
        body = make(size).encode()
        best = float("inf")
        for _ in range(5):
            # The thread's time, which others at work in the process or on the machine do not shift.
            began = time.thread_time()
            with contextlib.suppress(Invalid):
                parse_strictly(body, max_values=max_values)
            best = min(best, time.thread_time() - began)
        return best

    small, large = takes_s(2**15), takes_s(2**19)
    # Sixteen times as long: linear is 16 times the time, quadratic 256.
    assert large < max(80 * small, 0.05)
    assert large < 2
