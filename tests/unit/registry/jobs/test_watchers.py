"""How many may watch at once: of a token, of a namespace with all its tokens, and in all."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

from registry.errors import RateLimited
from registry.jobs.event_feed import Watchers
from registry.principal import Principal, Role


def who(token: str, *namespaces: str) -> Principal:
    return Principal("ci", dict.fromkeys(namespaces, Role.READER), token)


def enter(watchers: Watchers, caller: Principal) -> ExitStack:
    """Watch until what this returns is closed, or dropped."""
    stack = ExitStack()
    stack.enter_context(watchers.entered(caller))
    return stack


def take_all(watchers: Watchers, *namespaces: str) -> list[ExitStack]:
    """Open as many streams as tokens of these namespaces get."""
    opened = []
    for token in range(100):
        with suppress(RateLimited):
            while True:
                opened.append(enter(watchers, who(f"{namespaces}{token}", *namespaces)))
    return opened


def test_a_namespace_has_no_more_than_it_leaves_however_many_tokens_it_has() -> None:
    watchers = Watchers(most=96, most_of_token=8)
    opened = [take_all(watchers, "evil"), take_all(watchers, "evil2")]
    with pytest.raises(RateLimited, match="this namespace"):
        enter(watchers, who("other", "evil"))
    opened.append(take_all(watchers, "sound"))
    assert [len(streams) for streams in opened] == [48, 24, 12]


def test_a_token_has_so_many_and_pays_where_least_is_taken() -> None:
    watchers = Watchers(most=96, most_of_token=8)
    others = take_all(watchers, "shared")
    member = who("a", "shared", "team")
    leaving = [enter(watchers, member) for _ in range(8)]
    with pytest.raises(RateLimited, match="REGISTRY_MAX_STREAMS_PER_TOKEN"):
        enter(watchers, member)
    leaving[0].close()
    leaving[0].close()
    enter(watchers, member)
    assert len(others) == 48


def test_tokens_for_all_namespaces_pay_for_themselves_until_none_are_left() -> None:
    watchers = Watchers(most=16, most_of_token=2)
    left = [enter(watchers, who(f"{number // 2}", "*")) for number in range(14)]
    left += [enter(watchers, who("7", "*")), enter(watchers, who("8", "*"))]
    with pytest.raises(RateLimited, match="16 streams are already open"):
        enter(watchers, who("9", "*"))
    for leave in left:
        leave.close()
    enter(watchers, who("9", "*"))
