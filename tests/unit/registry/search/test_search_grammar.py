"""The grammar of filters: what is read is what is written back, and what can't be read is refused in one sentence."""

from __future__ import annotations

import re
import string
from datetime import UTC, date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.search.fields import (
    FIELDS,
    ORDERED,
    And,
    Field,
    FieldComparison,
    FieldRule,
    Node,
    Not,
    Or,
    Value,
    comparisons,
)
from registry.search.grammar import MAX_CHARS, MAX_COMPARISONS, MAX_NESTING, parse

PAGE = Path(__file__).resolve().parents[4] / "docs" / "search.md"

#: What a database keeps, with the characters that mean something somewhere a little more often.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.text("ab*%_?[]\\\"'; -)(,=~", max_size=12),
    st.sampled_from(["and", "OR", "Not", "in", "", "-", "*", "a*b", "3f1c0a9b2d4e"]),
)
NAMES = TEXTS.filter(bool)
VALUES: dict[str, st.SearchStrategy[Value]] = {
    "rank": st.integers(0, 2**31 - 1),
    "number": st.integers(0, 2**31 - 1),
    "alpha": st.floats(allow_nan=False, allow_infinity=False),
    "eval": st.floats(allow_nan=False, allow_infinity=False),
    "created": st.one_of(st.dates(max_value=date(9999, 12, 30)), st.datetimes(timezones=st.just(UTC))),
    "digest": st.text("0123456789abcdef", min_size=12, max_size=64),
    "base.fingerprint": st.text("0123456789abcdef", min_size=12, max_size=64),
    "method": st.sampled_from(["qlora", "lora", "unknown"]),
    "state": st.sampled_from(["ready", "archived", "quarantined"]),
    "kind": st.sampled_from(["adapter", "merged", "base"]),
}


@st.composite
def fields(draw: st.DrawFn) -> Field:
    word = draw(st.sampled_from(sorted(FIELDS)))
    if word == "tag":
        return Field(word, draw(NAMES))
    return Field(word, draw(NAMES), draw(NAMES)) if word == "eval" else Field(word)


@st.composite
def compared(draw: st.DrawFn) -> FieldComparison:
    field = draw(fields())
    sign = draw(st.sampled_from(FIELDS[field.word].operators))
    count = draw(st.integers(1, 3)) if sign == "in" else 1
    values = VALUES.get(field.word, TEXTS)
    return FieldComparison(field, sign, tuple(draw(values) for _ in range(count)))


def joined(kind: type[And] | type[Or], parts: list[Node]) -> Node:
    """Join parts as the parser does: one stands for itself, and a part of the same kind is not a part."""
    flat = [piece for part in parts for piece in (part.parts if isinstance(part, kind) else (part,))]
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


TREES: st.SearchStrategy[Node] = st.recursive(
    compared(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: joined(And, parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: joined(Or, parts)),
    ),
    max_leaves=8,
)


def depth_of(tree: Node) -> int:
    if isinstance(tree, FieldComparison):
        return 0
    return 1 + max((depth_of(part) for part in ((tree.part,) if isinstance(tree, Not) else tree.parts)), default=0)


@given(TREES.filter(lambda tree: len(str(tree)) <= MAX_CHARS and depth_of(tree) <= MAX_NESTING))
def test_what_is_written_is_read_as_the_same_tree(tree: Node) -> None:
    assert parse(str(tree)) == tree


def refused(text: str) -> str:
    """Return the sentence with which a filter is refused, after looking at its form."""
    with pytest.raises(Invalid) as caught:
        parse(text)
    error = caught.value
    assert type(error) is Invalid
    assert (error.code.value, error.param, error.status) == ("invalid", "filter", 422)
    match = re.fullmatch(r"column ([0-9]+) of the filter: .+; write for example: (.+)", error.message)
    assert match is not None, error.message
    assert 1 <= int(match[1]) <= len(text) + 1
    parse(match[2])
    return error.message


#: Pieces of filters, in no order.
_MARKS = "tag[ eval[x] .loss ~ ( ) [ ] , and or not 8 1e999 1.5 ready 2026-03-01 2026-03-01T24:00 * ' ; -- 3f1c0a9b2d4e"
PIECES = st.sampled_from([*FIELDS, *ORDERED, *_MARKS.split(), '"', '"x"', "\\", "\0", "\ud800"])


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(string.printable, max_size=60),
        st.lists(PIECES, max_size=14).map(" ".join),
        st.lists(PIECES, max_size=14).map("".join),
        st.tuples(TREES.map(str), st.integers(0, 80), st.sampled_from(["", ")", '"', "\\", " and", "*", "é"])).map(
            lambda given: given[0][: given[1]] + given[2] + given[0][given[1] + 1 :]
        ),
    )
)
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        tree = parse(text)
    except Invalid:
        refused(text)
    else:
        assert parse(str(tree)) == tree
        assert str(parse(str(tree))) == str(tree)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" \t\n", ""),
        ("rank=8", "rank = 8"),
        ("rank=008", "rank = 8"),
        ("RANK_IS_NO_FIELD", None),
        ("base=a AND rank>=8 Or alias=b", "base = a and rank >= 8 or alias = b"),
        ("base = a and (rank = 8 or rank = 16)", "base = a and (rank = 8 or rank = 16)"),
        ("((rank = 8)) and (base = a and alias = b)", "rank = 8 and base = a and alias = b"),
        ("not not (rank = 8)", "not not rank = 8"),
        ("not (rank = 8 and alpha = 2)", "not (rank = 8 and alpha = 2.0)"),
        ("rank in(8,16 , 32)", "rank in (8, 16, 32)"),
        ('name ~ "team/*"', "name ~ team/*"),
        ('name = "team/*"', 'name = "team/*"'),
        (r'author = "a \"b\" \\ c"', r'author = "a \"b\" \\ c"'),
        ('tag["the key"] = x', 'tag["the key"] = x'),
        ('eval["held out"] . "exact match" > -.5', 'eval["held out"]."exact match" > -0.5'),
        ("eval[x].and < 1E3", "eval[x].and < 1000.0"),
        ("digest = sha256:3f1c0a9b2d4e", "digest = 3f1c0a9b2d4e"),
        ("created = 2026-03-01", "created = 2026-03-01"),
        ("created < 2026-03-01T12:30", "created < 2026-03-01T12:30:00Z"),
        ("created < 2026-03-01T12:30+02:00", "created < 2026-03-01T10:30:00Z"),
        ("created < 2026-03-01T12:30:01.25Z", "created < 2026-03-01T12:30:01.250000Z"),
        ("author = 'x'", None),
    ],
)
def test_each_filter_has_one_spelling(text: str, canonical: str | None) -> None:
    if canonical is None:
        refused(text)
    else:
        assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("rnk = 8", 1, "no field 'rnk', the nearest is 'rank'"),
        ("rank = 8 and creatd = 2026-03-01", 14, "the nearest is 'created'"),
        ("zzz = 8", 1, "no field 'zzz', but name, namespace, base"),
        ("rank", 5, "rank takes =, !=, <, <=, >, >= or in, not the end"),
        ("name < a", 6, "name takes =, !=, ~ or in, not '<'"),
        ("rank ~ 8", 6, "rank takes =, !=, <, <=, >, >= or in, not '~'"),
        ("method ~ q*", 8, "method takes =, != or in, not '~'"),
        ("rank = big", 8, "rank takes a whole number from 0 to 2147483647, not 'big'"),
        ("rank = 2147483648", 8, "a whole number"),
        ("rank = -1", 8, "a whole number"),
        ("rank = ８", 8, "must be in double quotes"),
        ('rank = "８"', 8, "a whole number"),
        ("alpha > 1e999", 9, "alpha takes a number"),
        ("alpha > nan", 9, "alpha takes a number"),
        ("alpha > 1_0", 9, "alpha takes a number"),
        ("method = dora", 10, "method takes one of qlora, lora, unknown, not 'dora'"),
        ("state = pending", 9, "state takes one of ready, archived, quarantined"),
        ("state in (ready, deleted)", 18, "state takes one of ready, archived, quarantined"),
        ("base.fingerprint = abc", 20, "12 to 64 lower-case hexadecimal digits"),
        ("digest = 3F1C0A9B2D4E", 10, "12 to 64 lower-case hexadecimal digits"),
        ("created = yesterday", 11, "a day or moment such as 2026-03-01"),
        ("created = 2026-02-30", 11, "a day or moment"),
        ("created = 9999-12-31", 11, "a day or moment"),
        ("created = 0001-01-01T00:00+14:00", 11, "a day or moment"),
        ("created = 20260301", 11, "a day or moment"),
        ("name = team/*", 8, "'team/*' is a pattern"),
        ("name in (a, b*)", 13, "'b*' is a pattern"),
        ("author = and", 10, "'and' is a word of the grammar"),
        ("author = 'ada'", 10, "must be in double quotes"),
        ('author = "ada', 10, "the closing quote is missing"),
        (r'author = "a\n"', 12, r"inside quotes, \ may stand before"),
        ("rank in 8", 9, "'(' is expected, not '8'"),
        ("rank in (8 16)", 12, "')' is expected, not '16'"),
        ("rank in ()", 10, "a whole number from 0 to 2147483647 is expected, not ')'"),
        ("tag = x", 5, "'[' is expected"),
        ("tag[] = x", 5, "a name is expected"),
        ('tag[""] = x', 5, "a name is expected, not an empty one"),
        ("eval[x] < 1", 9, "a dot and a metric's name are expected"),
        ("eval[x].* < 1", 8, "a dot and a metric's name are expected"),
        ("(rank = 8", 10, "')' is expected, not the end"),
        ("rank = 8)", 9, "'and', 'or' or the end is expected, not ')'"),
        ("rank = 8 alpha = 2", 10, "'and', 'or' or the end is expected"),
        ("rank = 8 and", 13, "a field, 'not' or '(' is expected, not the end"),
        ("or rank = 8", 1, "a field, 'not' or '(' is expected, not 'or'"),
        ('author = "a\0b"', 12, "can't be stored"),
        ('author = "a\ud800b"', 12, "can't be stored"),
        ("rank = 8; drop table versions", 9, "';' must be in double quotes"),
    ],
)
def test_a_refusal_says_where_what_and_how(text: str, column: int, says: str) -> None:
    message = refused(text)
    assert message.startswith(f"column {column} of the filter: "), message
    assert says in message


def test_the_bounds_hold_and_are_named() -> None:
    most = " or ".join(["rank = 8"] * MAX_COMPARISONS)
    assert len(list(comparisons(parse(most)))) == MAX_COMPARISONS
    assert f"more than {MAX_COMPARISONS} comparisons" in refused(f"{most} or rank = 8")
    for opening, closing in (("(", ")"), ("not ", ""), ("not (", ")")):
        deep = MAX_NESTING // (2 if len(opening) > 4 else 1)
        parse(opening * deep + "rank = 8" + closing * deep)
        assert f"nested more than {MAX_NESTING} deep" in refused(
            opening * (deep + 1) + "rank = 8" + closing * (deep + 1)
        )
    parse("rank = 8".ljust(MAX_CHARS))
    assert "longer than 4,000 characters" in refused("rank = 8".ljust(MAX_CHARS + 1))
    # Each of these is longer when it is written in full.
    moments = ",".join(["2026-03-01T12:30"] * 200)
    assert "written out in full it is longer" in refused(f"created in({moments})")
    refused("(" * MAX_CHARS)


@pytest.mark.parametrize("rule", FIELDS.values(), ids=list(FIELDS))
def test_the_example_of_each_field_is_right(rule: FieldRule) -> None:
    (found,) = comparisons(parse(rule.example))
    assert FIELDS[found.field.word] == rule


def examples_of_the_page() -> list[str]:
    text = PAGE.read_text()
    found = [line for block in re.findall(r"```filter\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    found += re.findall(r"adapterctl search '([^']+)'", text)
    found += re.findall(r'sdk\.search\("([^"]+)"', text)
    found += re.findall(r"^\| .*\| `([^`]+)` \|$", text, re.MULTILINE)
    found += re.findall(r": `([^`]+)` \|$", text, re.MULTILINE)
    found += [code for code in re.findall(r"`([^`\n]+)`", text) if re.match(r"(alias|tag\[\w+\]|created) [!=<]", code)]
    return found


@pytest.mark.parametrize("text", examples_of_the_page())
def test_every_example_of_the_page_is_a_filter(text: str) -> None:
    assert str(parse(text))


def test_the_page_has_each_field_with_its_operators_and_an_example_of_it() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| (.+) \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert [(shown, tuple(re.findall("`([^`]+)`", signs))) for shown, signs, _ in rows] == [
        (rule.shown, rule.operators) for rule in FIELDS.values()
    ]
    for shown, _, example in rows:
        assert next(comparisons(parse(example))).field.rule.shown == shown
    assert len(examples_of_the_page()) >= 30
