"""Expressions that are looked for within texts: equal to `re.search`, in a number of steps that grows with the text."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdk.formats.character_tests import same_letters
from sdk.formats.expressions import Automaton, Budget, BudgetError, ExpressionError

ATOMS = ["a", "B", r"\n", ".", "[ab]", "[^a]", r"\d", r"\s", r"\w", "^", "$", r"\A", r"\Z", r"\b", "é", "ſ", "[k-t]"]
FLAGS = st.sampled_from(["", "(?i)", "(?m)", "(?s)", "(?ims)"])
TEXTS = st.text(alphabet="aABb\n 7éÉsſ", max_size=12)


def expressions() -> st.SearchStrategy[str]:
    repeated = st.tuples(st.sampled_from(ATOMS[:9]), st.sampled_from(["*", "+", "?", "{2}"])).map("".join)
    return st.recursive(
        st.sampled_from(ATOMS) | repeated,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map("".join)
            | st.tuples(inner, inner).map(lambda both: f"(?:{both[0]}|{both[1]})")
            | inner.map(lambda one: f"(?={one})")
            | inner.map(lambda one: f"(?:{one})*")
        ),
        max_leaves=6,
    )


def found(expression: str, text: str, steps: int = 1_000_000) -> bool:
    return Automaton([expression], within=True).first(text, Budget(steps)) is not None


@given(FLAGS, expressions(), TEXTS)
@example("", "a$", "a\n")
@example("", "a$\n", "a\n")
@example("", r"a\Z", "a\n")
@example("(?m)", "^a$", "b\na\nb")
@example("(?i)", "[^s]", "ſ")
@example("(?i)", "ſ", "S")
def test_what_is_found_is_what_re_finds(flags: str, expression: str, text: str) -> None:
    assert found(flags + expression, text) is (re.search(flags + expression, text) is not None)


@pytest.mark.parametrize("letter", ["k", "K", "\u212a", "s", "ſ", "é", "ς", "σ", "İ", "ı", "ß", "ẞ", "7", "я"])
def test_letters_that_are_the_same_but_for_their_case(letter: str) -> None:
    every = [chr(code) for code in range(0x10000) if re.match(f"(?i){letter}$", chr(code))]
    assert sorted(same_letters(letter)) == every


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
