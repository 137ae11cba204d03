"""Expressions cost no more than their length allows, whatever is in them: counted, since a slow one would not end."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.steps import require_linear, steps_of

from sdk.formats.expression_cost import tries
from sdk.formats.expressions import (
    BUILDING_STEPS,
    BUILDING_STEPS_A_CHARACTER,
    Automaton,
    Budget,
    BudgetError,
    ExpressionError,
)
from sdk.formats.peft_patterns import ModuleValues

#: Instructions of Python that one step of building may take.
INSTRUCTIONS_A_STEP = 250
FREEZING = "(?:(?:(?:(?:){4000}){4000}){4000}){4000}"


def try_it(expression: str) -> None:
    with suppress(ExpressionError):
        Automaton([expression], within=True)


def nested() -> st.SearchStrategy[str]:
    bodies = st.sampled_from(["", "a", "|", "^", r"\b", "a?", "(?=)", "(?!a)", "[a-z]", "(?:a|)", "é*"])
    counts = st.sampled_from(["*", "+", "?", "{9}", "{200}", "{4000}", "{0,4000}", "{2,}", "{4000,}", "{3,3}?"])
    return st.recursive(
        bodies,
        lambda inner: st.one_of(
            st.builds("(?:{}){}".format, inner, counts),
            st.builds("(?:{}){}".format, st.lists(inner, min_size=2, max_size=4).map("|".join), counts),
            st.lists(inner, min_size=2, max_size=4).map("".join),
        ),
        max_leaves=12,
    )


def test_nested_repeats_of_nothing_are_refused_at_once() -> None:
    # In a process of its own with a limit, since the fault was to run for ever.
    program = f"from sdk.formats.expressions import Automaton\nAutomaton([{FREEZING!r}], within=True)"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (5, 5)),
        check=False,
    )
    assert "ExpressionError: it repeats something that can be empty" in ended.stderr


@settings(max_examples=60, deadline=None)
@given(nested())
@example("(?:(?:(?:(?:a|){4000}){4000}){4000}){4000}")
@example("(?:(?:(?:a{0,4000}b){4000}){4000}){4000}")
@example("a{4000}" * 100)
def test_building_takes_as_many_steps_as_the_length_allows(expression: str) -> None:
    allowed = BUILDING_STEPS + BUILDING_STEPS_A_CHARACTER * len(expression)
    assert steps_of(lambda: try_it(expression)) < INSTRUCTIONS_A_STEP * allowed


@pytest.mark.parametrize(
    "expression", ["(?:){2}", "(a?){3}", "(|a){2,}", "(?:a*){0,5}", "(?=a){4}", r"(?:\b){3}", "(?:^|a?){2}"]
)
def test_counted_repeat_of_what_can_be_empty_is_refused(expression: str) -> None:
    with pytest.raises(ExpressionError, match="can be empty a given number of times; use \\* instead"):
        Automaton([expression], within=True)


@pytest.mark.parametrize(
    "expression", ["(a*)*", r"(\s*,\s*)*", "(?:a?)+", "(|a)?", "(?:a*)?", r"(?:\d+,?){1,20}", r"(?:a|bc){3}", "x{4000}"]
)
def test_repeats_that_people_write_are_taken(expression: str) -> None:
    Automaton([expression], within=True)


def test_many_expressions_share_their_steps() -> None:
    with pytest.raises(ExpressionError, match="repeat counts are too high"):
        Automaton(["a{4000}"] * 50, after_dot=True)


def test_patterns_of_values_are_not_read_if_they_are_too_many() -> None:
    def make() -> object:
        return ModuleValues({f"layers.{number}.*": 4 for number in range(5000)}, 8, Budget(1000))

    with pytest.raises(ExpressionError, match="longer than 16 KiB together"):
        make()
    assert steps_of(make) < 500 * 5000


def test_repeated_set_is_read_once() -> None:
    few, many = ("[" + "".join(map(chr, range(0x4E00, 0x4E00 + count))) + "]{300}" for count in (10, 900))
    assert steps_of(lambda: try_it(many)) < 2 * steps_of(lambda: try_it(few)) + 150_000


@pytest.mark.parametrize("flags", ["", "(?i)"])
def test_a_letter_is_looked_up_in_a_set_in_the_same_time_however_long_it_is(flags: str) -> None:
    def looked(count: int) -> int:
        letters = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 2 * count, 2))
        automaton = Automaton([f"{flags}[{letters}]+"], within=True)
        return steps_of(lambda: automaton.first("never" * 20, Budget(100_000)))

    looked(1)
    assert looked(900) < 1.1 * looked(9) + 1000


@pytest.mark.parametrize(
    "part",
    ["{}*", "{}?", "{}", "(?:{}*)?", "({}|x{}|y{})", "[^{}]"],
    ids=["stars", "maybes", "letters", "groups", "ors", "sets"],
)
def test_tries_are_counted_in_steps_by_the_length(part: str) -> None:
    def make(count: int) -> object:
        expression = "".join(part.replace("{}", chr(0x4E00 + number)) for number in range(count))
        return lambda: tries.__wrapped__(expression)

    require_linear(make, 10)


def found(expression: str, text: str, steps: int = 1_000_000) -> bool:
    return Automaton([expression], within=True).first(text, Budget(steps)) is not None


@pytest.mark.parametrize(
    "expression", ["(a+)+b", "(.*a)*b", "(a|aa)+$", "(?:a|a)" * 30 + "b", "a?" * 30 + "a" * 30 + "b", ".*" * 6 + "b"]
)
def test_what_takes_re_for_ever_takes_steps_by_the_length_of_the_text(expression: str) -> None:
    assert not found(expression, "a" * 2000 + "c", steps=2000 * 1000)


def test_steps_run_out() -> None:
    with pytest.raises(BudgetError):
        found(r"\ba*" * 50, "a" * 2000, steps=10_000)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(", "not a regular expression"),
        (r"(a)\1", "refers back"),
        ("(?<=a)b", "looks back"),
        ("(?x) a", "flags other than i, m and s"),
        ("(?i:a)", "sets flags"),
        ("(?:a{400}){400}", "repeat counts are too high"),
        ("x" * 1001, "longer than 1000 characters"),
    ],
)
def test_what_can_not_be_looked_for(expression: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        Automaton([expression], within=True)
