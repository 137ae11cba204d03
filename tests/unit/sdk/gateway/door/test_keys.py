"""Tokens of the registry at a gateway: how long an answer counts, with the registry there and away."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from sdk.gateway.door.keys import (
    EVERYTHING,
    FRESH_S,
    MOST_CLIENTS,
    MOST_REMEMBERED,
    STALE_S,
    CallerRights,
    Keys,
    OwnKey,
    RegistryAway,
    TokenRights,
    WrongKeys,
)
from sdk.gateway.door.refusals import Declined
from sdk.schemas.access import GrantView
from sdk.schemas.serving import TokenStanding


class Registry:
    """One that knows some tokens, and a clock."""

    def __init__(self, *tokens: str) -> None:
        self.known = {hashlib.sha256(token.encode()).hexdigest() for token in tokens}
        self.is_away = False
        self.asked: list[str] = []
        self.valid_for_s = 60.0
        self.now = 1000.0
        self.rights = TokenRights(self.ask, clock=lambda: self.now)

    async def ask(self, sha256: str) -> TokenStanding:
        self.asked.append(sha256)
        await asyncio.sleep(0)
        if self.is_away:
            raise ConnectionError
        grants = [GrantView(namespace="team", role="reader")] if sha256 in self.known else []
        return TokenStanding(grants=grants, valid_for_s=self.valid_for_s)

    def find(self, token: str) -> CallerRights | None:
        return asyncio.run(self.rights.find(token))


TEAM = CallerRights(frozenset({"team"}))


def test_an_answer_counts_for_five_seconds_whatever_the_registry_says() -> None:
    registry = Registry("good")
    assert registry.find("good") == TEAM
    registry.now += FRESH_S - 0.1
    assert registry.find("good") == TEAM
    assert len(registry.asked) == 1
    registry.known.clear()
    registry.now += 0.2
    assert registry.find("good") is None
    assert len(registry.asked) == 2


def test_a_known_token_goes_on_for_a_quarter_of_an_hour_without_the_registry() -> None:
    registry = Registry("good")
    registry.find("good")
    registry.is_away = True
    registry.now += STALE_S - 1
    assert registry.find("good") == TEAM
    with pytest.raises(RegistryAway):
        registry.find("unknown")
    registry.now += 2
    with pytest.raises(RegistryAway):
        registry.find("good")


def test_a_token_that_was_revoked_is_forgotten_although_the_registry_goes_away() -> None:
    registry = Registry("good")
    registry.find("good")
    registry.known.clear()
    registry.now += FRESH_S
    assert registry.find("good") is None
    registry.is_away = True
    registry.now += FRESH_S
    with pytest.raises(RegistryAway):
        registry.find("good")


def test_a_token_that_ends_is_refused_also_without_the_registry() -> None:
    registry = Registry("good")
    registry.valid_for_s = 3.0
    registry.find("good")
    registry.is_away = True
    registry.now += 2.9
    assert registry.find("good") == TEAM
    registry.now += 0.2
    with pytest.raises(RegistryAway):
        registry.find("good")
    assert not registry.rights.was_right("good")


def test_a_key_that_nobody_can_look_up_is_not_called_wrong_and_is_not_counted() -> None:
    registry = Registry("good")
    keys = Keys(OwnKey.of("the key"), registry.rights, wrong=WrongKeys(clock=lambda: 0.0))
    registry.is_away = True

    async def refusals() -> list[Declined]:
        found = []
        for _ in range(30):
            with pytest.raises(Declined) as refused:
                await keys.caller("Bearer good", "192.0.2.7")
            found.append(refused.value)
        return found

    assert {(each.status, each.headers["Retry-After"]) for each in asyncio.run(refusals())} == {(503, "5")}
    # It is asked again after five seconds, and not by each request.
    assert len(registry.asked) == 1
    registry.is_away = False
    registry.now += FRESH_S
    assert asyncio.run(keys.caller("Bearer good", "192.0.2.7")).rights == TEAM


def test_a_registry_that_is_away_is_asked_again_after_five_seconds_and_not_by_each_request() -> None:
    registry = Registry("good")
    registry.find("good")
    registry.is_away = True
    registry.now += FRESH_S
    for _ in range(10):
        assert registry.find("good") == TEAM
    assert len(registry.asked) == 2
    registry.now += FRESH_S
    registry.known.clear()
    registry.is_away = False
    assert registry.find("good") is None


def test_many_first_requests_with_one_right_token_are_all_let_in() -> None:
    registry = Registry("good")
    keys = Keys(None, registry.rights, wrong=WrongKeys(clock=lambda: 0.0))

    async def many(token: str) -> list[CallerRights | BaseException]:
        async def one() -> CallerRights:
            return (await keys.caller(f"Bearer {token}", "192.0.2.7")).rights

        asking = (one() for _ in range(50))
        return await asyncio.gather(*asking, return_exceptions=True)

    assert asyncio.run(many("good")) == [TEAM] * 50
    statuses = [error.status for error in asyncio.run(many("wrong")) if isinstance(error, Declined)]
    assert statuses == [401] * 50
    assert len(registry.asked) == 2


def test_many_at_once_ask_the_registry_once() -> None:
    registry = Registry("good")

    async def many() -> list[CallerRights | None]:
        return await asyncio.gather(*(registry.rights.find("good") for _ in range(50)))

    assert asyncio.run(many()) == [TEAM] * 50
    assert len(registry.asked) == 1


def test_wrong_tokens_push_no_right_one_out_and_take_bounded_memory() -> None:
    registry = Registry("good")
    registry.find("good")

    async def flood() -> None:
        for number in range(MOST_REMEMBERED + 50):
            await registry.rights.find(f"wrong {number}")

    asyncio.run(flood())
    assert len(registry.rights._wrong) == MOST_REMEMBERED
    registry.is_away = True
    assert registry.find("good") == TEAM


def test_counts_of_clients_are_bounded() -> None:
    wrong = WrongKeys(clock=lambda: 0.0)
    for number in range(MOST_CLIENTS + 50):
        wrong.note(str(number))
    assert len(wrong._sent) == MOST_CLIENTS


def test_the_addresses_that_one_machine_may_give_itself_are_one_client() -> None:
    keys = Keys(OwnKey.of("the key"), None, wrong=WrongKeys(clock=lambda: 0.0))

    async def statuses() -> list[int]:
        found = []
        for number in range(25):
            with pytest.raises(Declined) as refused:
                await keys.caller("Bearer wrong", f"2001:db8::{number:x}")
            found.append(refused.value.status)
        return found

    assert asyncio.run(statuses()) == [401] * 20 + [429] * 5


def test_no_key_is_kept() -> None:
    registry = Registry("good")
    registry.find("good")
    key = OwnKey.of("the key")
    assert "the key" not in repr(key)
    assert "good" not in repr(vars(registry.rights))
    assert Keys(None, None)
    assert EVERYTHING.may_use("any/adapter")


@pytest.mark.parametrize(
    ("namespaces", "adapter", "may"),
    [
        ({"-"}, "sql", True),
        ({"-"}, "team/sql", False),
        ({"team"}, "team/sql", True),
        ({"team"}, "sql", False),
        ({"team"}, "team2/sql", False),
    ],
)
def test_rights_are_those_of_a_namespace(namespaces: set[str], adapter: str, may: bool) -> None:
    assert CallerRights(frozenset(namespaces)).may_use(adapter) is may
