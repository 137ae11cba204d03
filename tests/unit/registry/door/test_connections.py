"""Which connections a server lets in, and which of them it gives up, by hand-written connections and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from registry.door.connections import (
    CLOSING_S,
    CROWDED,
    FETCHING_S,
    FULL,
    SLOW_BODY,
    SLOW_HEAD,
    Connections,
    Refusal,
    Waits,
)
from registry.door.limits import ServerLimits
from registry.errors import Invalid
from registry.http.addresses import is_within, parse_proxies
from registry.settings import Settings
from sdk.formats.hosts import neighbourhood

LIMITS = ServerLimits(
    connections=4,
    connections_per_address=2,
    head_bytes=1000,
    headers=10,
    url_bytes=100,
    head_s=10,
    least_bytes_per_s=100,
    grace_s=10,
    idle_s=3,
    reserve=2,
)
WAITED_FOR: tuple[Waits, ...] = ("head", "body", "answer", "idle")


class Loop:
    """A clock, and what is called once it has come so far."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self._calls.append((self.now + delay_s, call))

    def pass_s(self, seconds: float) -> None:
        """Let time pass, second by second."""
        for _ in range(int(seconds)):
            self.now += 1
            due = [call for at, call in self._calls if at <= self.now]
            self._calls = [(at, call) for at, call in self._calls if at > self.now]
            for call in due:
                call()


@dataclass
class Transport:
    """As much of a transport as is asked for."""

    unsent: int = 0
    closing: bool = False
    aborted: bool = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


@dataclass(eq=False)
class Connection:
    """A connection of an address, in whichever state a test wants."""

    address: str
    is_trusted: bool = False
    waits: Waits = "head"
    since: float = 100.0
    body_bytes: int = 0
    ahead_bytes: float = 0.0
    unsent_bytes: int = 0
    unsent_since: float = 100.0
    closing_since: float | None = None
    reads: bool = True
    transport: Any = field(default_factory=Transport)
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        self.transport.close()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def connections(loop: Loop) -> Connections:
    return Connections(LIMITS, lambda: cast(asyncio.AbstractEventLoop, loop))


class TestEntering:
    def test_an_address_has_so_many_and_a_few_more_to_be_told_so(self, connections: Connections) -> None:
        first = [Connection("192.0.2.1") for _ in range(4)]
        assert [connections.enter(one) for one in first] == [None, None, CROWDED, CROWDED]
        connections.leave(first[3])
        connections.leave(first[2])
        connections.leave(first[2])
        connections.leave(first[1])
        assert connections.enter(Connection("192.0.2.1")) is None
        assert connections.enter(Connection("192.0.2.2")) is None

    def test_of_those_beyond_the_limit_the_first_that_is_not_answered_goes_for_the_last(
        self, connections: Connections
    ) -> None:
        asked = [Connection("192.0.2.1", waits="answer") for _ in range(2)]
        asked += [Connection("192.0.2.1", waits="answer"), Connection("192.0.2.1")]
        assert [connections.enter(one) for one in asked] == [None, None, CROWDED, CROWDED]
        for _ in range(100):
            last = Connection("192.0.2.1")
            assert connections.enter(last) is CROWDED
            assert not last.transport.aborted
        assert [one.transport.aborted for one in asked] == [False, False, False, True]
        assert len(connections._all) == 4
        # Where all are answered, too.
        last.waits = "answer"
        assert connections.enter(Connection("192.0.2.1")) is CROWDED
        assert [one.transport.aborted for one in (*asked[:3], last)] == [False, False, True, False]
        for one in list(connections._all):
            connections.leave(one)
        assert len(connections._all) == 0
        assert connections.enter(Connection("192.0.2.1")) is None

    def test_those_beyond_a_limit_take_no_room_of_other_addresses_for_good(self, connections: Connections) -> None:
        crowd = [Connection(f"192.0.2.{n}") for n in (1, 2, 3) for _ in range(9)]
        for one in crowd:
            connections.enter(one)
            assert len(connections._all) <= LIMITS.connections + LIMITS.reserve
        assert connections.enter(Connection("192.0.2.9")) is None

    def test_a_proxy_has_as_many_as_there_are(self, connections: Connections) -> None:
        assert [connections.enter(Connection("10.1.2.3", is_trusted=True, waits="answer")) for _ in range(5)] == [
            *[None] * 4,
            FULL,
        ]

    def test_when_all_are_taken_the_one_that_asked_nothing_for_longest_goes(
        self, connections: Connections, loop: Loop
    ) -> None:
        busy = [
            Connection("10.0.0.1", is_trusted=True, waits="answer", since=1.0),
            Connection("10.0.0.1", is_trusted=True, waits="body", since=2.0),
        ]
        silent = [
            Connection("10.0.0.1", is_trusted=True, waits="idle", since=4.0),
            Connection("10.0.0.1", is_trusted=True, waits="head", since=3.0),
        ]
        for one in (*busy, *silent):
            assert connections.enter(one) is None
        assert connections.enter(Connection("192.0.2.1", waits="answer")) is None
        assert [one.transport.aborted for one in (*busy, *silent)] == [False, False, False, True]
        assert connections.enter(Connection("192.0.2.2", waits="answer")) is None
        assert connections.enter(Connection("192.0.2.3", waits="answer")) is FULL
        assert connections.enter(Connection("192.0.2.4", waits="answer")) is FULL
        with pytest.raises(ConnectionRefusedError):
            connections.enter(Connection("192.0.2.5"))


class TestTimes:
    def test_a_head_is_waited_for_and_an_answer_is_not(self, connections: Connections, loop: Loop) -> None:
        waiting, worked_on = Connection("192.0.2.1"), Connection("192.0.2.2", waits="answer")
        connections.enter(waiting)
        connections.enter(worked_on)
        loop.pass_s(10)
        assert not waiting.refusals
        loop.pass_s(1)
        assert waiting.refusals == [SLOW_HEAD]
        loop.pass_s(1000)
        assert not worked_on.refusals

    def test_a_body_that_came_fast_may_stand_still_for_a_while(self, connections: Connections, loop: Loop) -> None:
        body = Connection("192.0.2.1", waits="body", ahead_bytes=LIMITS.least_bytes_per_s * LIMITS.grace_s)
        connections.enter(body)
        body.body_bytes = 10**9
        loop.pass_s(LIMITS.still_s)
        assert not body.refusals
        loop.pass_s(2)
        assert body.refusals == [SLOW_BODY]

    def test_a_body_that_the_server_does_not_take_is_not_slow(self, connections: Connections, loop: Loop) -> None:
        body = Connection("192.0.2.1", waits="body", reads=False)
        connections.enter(body)
        loop.pass_s(1000)
        assert not body.refusals
        body.reads = True
        for _ in range(100):
            body.body_bytes += 100
            loop.pass_s(1)
        assert not body.refusals
        loop.pass_s(2)
        assert body.refusals == [SLOW_BODY]

    def test_what_is_closed_and_does_not_end_is_cut(self, connections: Connections, loop: Loop) -> None:
        closed = Connection("192.0.2.1", transport=Transport(unsent=10, closing=True))
        connections.enter(closed)
        loop.pass_s(CLOSING_S)
        assert not closed.transport.aborted
        loop.pass_s(2)
        assert closed.transport.aborted

    def test_a_body_after_its_answer_is_drained_for_a_while(self, connections: Connections, loop: Loop) -> None:
        drained = Connection("192.0.2.1", waits="drain")
        connections.enter(drained)
        loop.pass_s(LIMITS.drain_s)
        assert not drained.transport.closing
        loop.pass_s(1)
        assert drained.transport.closing

    def test_a_connection_without_a_request_is_closed_after_a_while(self, connections: Connections, loop: Loop) -> None:
        idle, fetched = Connection("192.0.2.1", waits="idle"), Connection("192.0.2.2", waits="idle")
        for one in (idle, fetched):
            connections.enter(one)
        fetched.transport.unsent = 10
        loop.pass_s(LIMITS.idle_s)
        assert not idle.transport.closing
        loop.pass_s(1)
        assert idle.transport.closing
        assert not fetched.transport.closing
        loop.pass_s(FETCHING_S)
        assert fetched.transport.closing

    def test_a_proxy_in_front_closes_connections_itself_and_fetches_answers_or_is_cut_off(self, loop: Loop) -> None:
        limits = ServerLimits.of(
            Settings(
                database_url="", storage_url="", max_connections=6, max_connections_per_address=1, behind_proxy=True
            )
        )
        connections = Connections(limits, lambda: cast(asyncio.AbstractEventLoop, loop))
        every = [Connection("10.0.0.1", waits=waits, since=loop.now + n) for n, waits in enumerate(WAITED_FOR)]
        fetched = Connection("10.0.0.1", waits="idle", since=loop.now, transport=Transport(unsent=10))
        for one in (*every, fetched):
            assert connections.enter(one) is None
        loop.pass_s(FETCHING_S + 1)
        assert fetched.transport.closing
        loop.pass_s(10_000)
        assert not any(one.refusals or one.transport.closing for one in every)
        # What stands still longest still makes room for others.
        for _ in range(2):
            assert connections.enter(Connection("10.0.0.1", since=loop.now)) is None
        assert [one.waits for one in every if one.transport.aborted] == ["head"]

    def test_nobody_is_looked_at_once_all_are_gone(self, connections: Connections, loop: Loop) -> None:
        only = Connection("192.0.2.1")
        connections.enter(only)
        connections.leave(only)
        loop.pass_s(2)
        assert not loop._calls
        again = Connection("192.0.2.1", since=loop.now)
        connections.enter(again)
        loop.pass_s(12)
        assert again.refusals == [SLOW_HEAD]


class TestAnswers:
    def test_an_answer_that_is_not_fetched_is_given_up_and_one_that_is_slowly_is_not(
        self, connections: Connections, loop: Loop
    ) -> None:
        still, slow = (Connection(f"192.0.2.{n}", waits="answer", transport=Transport(unsent=1000)) for n in (1, 2))
        for one in (still, slow):
            connections.enter(one)
        for _ in range(int(LIMITS.still_s) + 3):
            slow.transport.unsent -= 1
            loop.pass_s(1)
        assert (still.transport.aborted, slow.transport.aborted) == (True, False)

    def test_beyond_what_all_may_take_those_that_stand_still_longest_are_given_up(self, loop: Loop) -> None:
        connections = Connections(replace(LIMITS, unsent_bytes=250), lambda: cast(asyncio.AbstractEventLoop, loop))
        held = [
            Connection("10.0.0.1", is_trusted=True, waits="answer", unsent_since=since, transport=Transport(unsent=100))
            for since in (90.0, 80.0, 85.0, 100.0)
        ]
        for one in held:
            connections.enter(one)
            connections.slow.add(one)
        connections.relieve()
        assert [one.transport.aborted for one in held] == [False, True, True, False]

    def test_what_moves_is_not_given_up_however_much_it_is(self, loop: Loop) -> None:
        connections = Connections(replace(LIMITS, unsent_bytes=50), lambda: cast(asyncio.AbstractEventLoop, loop))
        moving = Connection(
            "10.0.0.1", is_trusted=True, waits="answer", unsent_since=100.0, transport=Transport(unsent=100)
        )
        connections.enter(moving)
        connections.slow.add(moving)
        connections.relieve()
        assert not moving.transport.aborted


@pytest.mark.parametrize(
    ("address", "known_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("un\nknown", r"'un\nknown'"),
    ],
)
def test_addresses_are_known_by_what_one_machine_can_have(address: str, known_as: str) -> None:
    assert neighbourhood(address) == known_as


def test_proxies_are_addresses_and_networks() -> None:
    networks = parse_proxies("10.0.0.5, 10.1.0.0/16,fd00::/8")
    assert [is_within(address, networks) for address in ("10.0.0.5", "10.1.9.9", "fd00::1", "::ffff:10.0.0.5")] == [
        True
    ] * 4
    assert [is_within(address, networks) for address in ("10.0.0.6", "testclient", "")] == [False] * 3
    assert parse_proxies(None) == ()
    with pytest.raises(Invalid, match="REGISTRY_TRUSTED_PROXIES"):
        parse_proxies("localhost")
