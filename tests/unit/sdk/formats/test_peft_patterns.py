"""Names and expressions of PEFT's configs: equal to PEFT's own functions, and quick whatever a stranger wrote."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.soak import scale

from sdk.formats.expression_cost import tries
from sdk.formats.expressions import MAX_CHARACTERS, Budget, BudgetError
from sdk.formats.peft_patterns import MAX_TRIES, MAX_VALUES, ModuleValues, Targets, unfit

#: Few letters, so that names and expressions meet often.
LETTERS = "abq0."
MODULES = st.text(alphabet=LETTERS + "_1-", min_size=1, max_size=8)

#: Each may take `re` a time without bound, or is tried in ways of its own.
CATASTROPHIC = [
    "(a+)+b",
    "(.*a)*b",
    r"([^.]+\.?)+x",
    "(a|a)*b",
    "(a|aa)+$",
    "(?:a|a)" * 30 + "b",
    "a?" * 30 + "a" * 30,
    ".*" * 6 + "b",
    r"(a*)\1*b",
    "(?=(a+)+b).*",
    "(?<=a).*",
    "(?>a+)b",
    "a++b",
    "(?i)A",
    "(?i:a)",
    "(",
    "[",
    "**",
    r"\Aa",
    "a+" + "a" * MAX_CHARACTERS,
    "(" * 200 + ")" * 200,
    "((a{1,30}){1,30}){1,30}b",
]


def atoms() -> st.SearchStrategy[str]:
    return st.sampled_from(
        [
            *LETTERS.replace(".", ""),
            r"\.",
            ".",
            "[ab]",
            "[^.]",
            r"\d",
            r"\w",
            "[a-q0]",
            r"[^\d.]",
            "_",
            r"\D",
            "é",
            r"\-",
        ]
    )


def expressions() -> st.SearchStrategy[str]:
    """Expressions of the kind that a config may hold."""
    counted = st.sampled_from(["", "", "*", "+", "?", "*?", "+?", "{2}", "{1,2}", "{0,3}?", "{1,}"])
    piece = st.builds(str.__add__, atoms(), counted)

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = st.builds(
            lambda opening, parts, end: f"{opening}{'|'.join(parts)}){end}",
            st.sampled_from(["(", "(?:", "(?P<x>"]),
            st.lists(inner, min_size=1, max_size=3),
            st.sampled_from(["", "", "?"]),
        )
        return st.lists(st.one_of(piece, piece, group), max_size=4).map("".join)

    whole = st.recursive(piece, grown, max_leaves=8)
    return st.builds(
        lambda start, text, end: start + text + end,
        st.sampled_from(["", "", "^"]),
        whole,
        st.sampled_from(["", "", "$"]),
    )


class TestAgainstPeft:
    """PEFT's own functions say what is right; it takes its expressions as text, and `re` with them."""

    @settings(max_examples=scale(3000), deadline=None)
    @given(st.lists(st.one_of(expressions(), MODULES), max_size=4), st.lists(MODULES, min_size=1, max_size=6))
    @example(["a.q", "a0q"], ["a0q", "b.a.q", "a.q"])
    @example(["q$", "^a", "(?:a|b)q"], ["a", "b.a", "aq"])
    @example(["a+b", "b"], ["a+b"])
    @example(["lm_hea", "lm_head"], ["lm_head"])
    @example([r"model\.layers\.1\..*", r".*\.mlp\..*", ""], ["model.layers.10.mlp.down_proj", "lm_head"])
    # An expression after a name that fits too, and another name before both.
    @example(["b", "q", "a.*"], ["a.q", "b.a", "a.b"])
    def test_ranks_and_alphas(self, keys: list[str], modules: list[str]) -> None:
        from peft.utils.other import get_pattern_key

        keys = [key for key in keys if not list(unfit({"rank_pattern": {key: 1}}))]
        values = ModuleValues({key: number for number, key in enumerate(keys)}, -1, Budget(1_000_000))
        patterns = {key: number for number, key in enumerate(keys)}
        for module in modules:
            assert values.of(module) == patterns.get(get_pattern_key(list(patterns), module), -1)

    @settings(max_examples=scale(3000), deadline=None)
    @given(
        st.one_of(expressions(), st.lists(MODULES, max_size=3)),
        st.one_of(st.none(), expressions(), st.lists(MODULES, max_size=3)),
        st.one_of(st.none(), st.lists(st.sampled_from(["a", "q", "b.a", "a_b"]), max_size=2)),
        st.one_of(st.none(), st.just(0), st.lists(st.integers(0, 2), max_size=2)),
        st.one_of(st.none(), st.sampled_from(["a", "", "b"]), st.lists(st.sampled_from(["a", "q.a"]), max_size=2)),
        st.lists(st.one_of(MODULES, st.just("b.a.0.q"), st.just("x.b.a.1.b.2.q")), min_size=1, max_size=6),
    )
    def test_which_modules_are_meant(
        self,
        targets: str | list[str],
        excluded: str | list[str] | None,
        saved: list[str] | None,
        layers: int | list[int] | None,
        lists: str | list[str] | None,
        modules: list[str],
    ) -> None:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import check_target_module_exists

        config: dict[str, Any] = {"target_modules": targets, "exclude_modules": excluded, "modules_to_save": saved}
        if not isinstance(targets, str):
            # PEFT takes a pattern of lists only with layers.
            config |= {"layers_to_transform": layers, "layers_pattern": lists if layers not in (None, []) else None}
        config = {key: value for key, value in config.items() if not list(unfit({key: value}))}
        config.setdefault("target_modules", ["q"])
        theirs = LoraConfig(**{"target_modules": ["q"], **config})
        ours = Targets(config, Budget(1_000_000))
        for module in modules:
            assert ours.means(module) is bool(check_target_module_exists(theirs, module)), (config, module)


class TestBounds:
    @pytest.mark.parametrize("expression", CATASTROPHIC)
    def test_what_could_take_for_ever_is_no_plain_expression(self, expression: str) -> None:
        for key in ("exclude_modules", "target_modules"):
            assert [found.expression for found in unfit({key: expression})] == [expression]
        for key in ("rank_pattern", "alpha_pattern"):
            assert [found.expression for found in unfit({key: {"q_proj": 2, expression: 4}})] == [expression]

    @pytest.mark.parametrize(
        "expression",
        [
            r".*\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
            r"^model\.layers\.(0|1|2|3|10|11|12|13|20|21)\..*",
            r"model\.layers\.[0-9]+\.mlp\.(gate|up|down)_proj",
            r"(model\.)?layers\.\d+\..*",
            ".*vision.*",
            r"layers\.(2[0-9]|3[01])\.(?:self_attn|mlp)\.[^.]+",
        ],
    )
    def test_what_people_write_is_plain(self, expression: str) -> None:
        assert not list(unfit({"exclude_modules": expression, "rank_pattern": {expression: 4}}))

    def test_expressions_share_one_budget(self) -> None:
        each = tries(".*a.*0c")
        few = {f".*{number}c": 4 for number in range(5)}
        assert not list(unfit({"exclude_modules": ".*a.*c", "rank_pattern": few, "alpha_pattern": {"a.*": 1}}))
        many = {f".*a.*{number}c": 4 for number in range(MAX_TRIES // each)}
        assert {found.reason for found in unfit({"exclude_modules": ".*a.*c", "rank_pattern": many})} == {
            "trying it and those before it takes too long"
        }

    def test_names_have_a_limit_too(self) -> None:
        names = {f"layers.{number}.q_proj": 4 for number in range(MAX_VALUES + 1)}
        assert [found.reason for found in unfit({"alpha_pattern": names})] == [f"there are more than {MAX_VALUES}"]
        names.popitem()
        assert not list(unfit({"alpha_pattern": names, "rank_pattern": names}))
        long = {f"{number:0490}": 4 for number in range(200)}
        assert [found.reason for found in unfit({"rank_pattern": long})] == ["together they are longer than 64 KiB"]

    @pytest.mark.parametrize(
        "slow",
        # The slowest of some ten thousand that were tried: on the longest names, and for what is counted.
        ["[^b]{0,6}(?:.|a|[ab]).*aa[^b]{0,6}a*[bc]", "[^b]{0,6}a?.?(?:a|a)(?:.|a|[ab])(?:a|a)a*[bc]"],
    )
    def test_peft_tries_what_a_config_may_hold_in_a_moment(self, slow: str) -> None:
        assert not list(unfit({"exclude_modules": slow}))
        most = MAX_TRIES // tries(slow)
        names = ["a" * 64, "a" * 60 + "bbbb", "a." * 32]
        compiled = re.compile(slow)
        started = time.thread_time()
        for name in names:
            compiled.fullmatch(name)
        assert (time.thread_time() - started) * most / len(names) < 0.2

    def test_long_expressions_are_weighed_in_a_moment(self) -> None:
        parts = ["|".join(f"{first}{number}" for number in range(240)) for first in "abcdefghijklmnopqrstuvwxyz"]
        long = {f"({part}){number}": 4 for number in range(10) for part in parts}
        started = time.thread_time()
        assert {found.reason for found in unfit({"rank_pattern": long})} & {
            "together with those before it, it is longer than 16 KiB",
            "trying it and those before it takes too long",
        }
        assert time.thread_time() - started < 2

    @pytest.mark.parametrize("expression", ["[[a]b]", "[a--b]", "[a&&b]", "[a~~b]", "[a||b]", "[]--a]", "[^]&&a]"])
    def test_sets_that_may_mean_something_else_one_day_are_refused(self, expression: str) -> None:
        assert [found.reason for found in unfit({"exclude_modules": expression})] == ["it seems to nest character sets"]

    @pytest.mark.parametrize(
        "expression", ["a--b", "(a||b)", "[a-c][-a]", r"[\[a]", "[]a]", "[^]]x", "[a^]x--y", r"\[[a]"]
    )
    def test_other_sets_are_plain(self, expression: str) -> None:
        assert not list(unfit({"exclude_modules": expression}))

    def test_a_budget_ends(self) -> None:
        values = ModuleValues({f".*{number}.*x": 4 for number in range(50)}, 8, Budget(100_000))
        with pytest.raises(BudgetError):
            [values.of(f"layers.{number}." + "1." * 80) for number in range(100_000)]

    def test_an_expression_may_not_break_out_of_what_peft_puts_around_it(self) -> None:
        assert list(unfit({"rank_pattern": {"a)|(b": 4}}))


def test_names_whose_dots_lie_in_many_ways_cost_steps() -> None:
    length = 60
    patterns = {}
    for places in itertools.islice(itertools.combinations(range(2, length - 2), 2), 1000):
        patterns["".join("." if at in places else "z" for at in range(length))] = 4
    budget = Budget(10_000_000)
    values = ModuleValues(patterns, 1, budget)
    started = time.thread_time()
    for number in range(20):
        assert values.of(f"{number:b>{length}}") == 1
    spent_s = time.thread_time() - started
    # A step is meant to take a tenth of a microsecond or two.
    assert 10_000_000 - budget.left > 5_000 * 20
    assert spent_s / (10_000_000 - budget.left) < 1e-6
