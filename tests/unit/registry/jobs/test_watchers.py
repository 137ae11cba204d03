"""How many may watch at once: of a token, of a namespace with all its tokens, and in all."""

from __future__ import annotations

from contextlib import suppress

import pytest

from registry.errors import RateLimited
from registry.jobs.watch_limits import Watchers
from registry.principal import Principal, Role


def who(token: str, *namespaces: str) -> Principal:
    return Principal("ci", dict.fromkeys(namespaces, Role.READER), token)


def take_all(watchers: Watchers, *namespaces: str) -> int:
    """Open as many streams as tokens of these namespaces get."""
    opened = 0
    for token in range(100):
        with suppress(RateLimited):
            while True:
                watchers.enter(who(f"{namespaces}{token}", *namespaces))
                opened += 1
    return opened


def test_a_namespace_has_no_more_than_it_leaves_however_many_tokens_it_has() -> None:
    watchers = Watchers(most=96, most_of_token=8)
    assert take_all(watchers, "evil") == 48
    assert take_all(watchers, "evil2") == 24
    with pytest.raises(RateLimited, match="this namespace"):
        watchers.enter(who("other", "evil"))
    assert take_all(watchers, "sound") == 12


def test_a_token_has_so_many_and_pays_where_least_is_taken() -> None:
    watchers = Watchers(most=96, most_of_token=8)
    take_all(watchers, "shared")
    member = who("a", "shared", "team")
    leaving = [watchers.enter(member) for _ in range(8)]
    with pytest.raises(RateLimited, match="REGISTRY_MAX_STREAMS_PER_TOKEN"):
        watchers.enter(member)
    leaving[0]()
    leaving[0]()
    watchers.enter(member)


def test_tokens_for_all_namespaces_pay_for_themselves_until_none_are_left() -> None:
    watchers = Watchers(most=16, most_of_token=2)
    left = [watchers.enter(who(f"{number // 2}", "*")) for number in range(14)]
    watchers.enter(who("7", "*"))
    watchers.enter(who("8", "*"))
    with pytest.raises(RateLimited, match="16 streams are already open"):
        watchers.enter(who("9", "*"))
    for leave in left:
        leave()
    watchers.enter(who("9", "*"))
