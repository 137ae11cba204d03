"""What is done while something does not answer: one asks again, the others are refused at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clocks import Clock

from registry.deadlines import ASK_AGAIN_S, CircuitBreaker, NoAnswer, Places
from registry.errors import Unavailable
from registry.pools import Pool

POOL = Pool("it", waits="tests", at_once="1", item="a test", share="all", kept=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("the database", Unavailable, clock=clock)


def wait_in_vain(breaker: CircuitBreaker, clock: Clock, meanwhile: Callable[[], None] = lambda: None) -> None:
    def wait() -> None:
        with breaker.asking():
            clock.now += 1
            meanwhile()
            clock.now += 5
            raise NoAnswer

    with pytest.raises(Unavailable, match="the database does not answer"):
        wait()


class TestSilence:
    def test_after_one_waited_in_vain_one_asks_each_second_and_the_others_are_refused(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        wait_in_vain(breaker, clock)
        assert breaker.is_open
        with breaker.asking():
            # This one asks; whoever comes meanwhile does not.
            for _ in range(3):
                with pytest.raises(Unavailable), breaker.asking():
                    raise AssertionError("asked")
            clock.now += ASK_AGAIN_S
            with pytest.raises(Unavailable), breaker.asking():
                # The next second's.
                raise NoAnswer
        assert not breaker.is_open
        with breaker.asking(), breaker.asking():
            pass

    def test_who_waits_in_vain_while_others_are_answered_says_nothing_on_the_whole(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        def be_answered() -> None:
            with breaker.asking():
                pass

        wait_in_vain(breaker, clock, be_answered)
        assert not breaker.is_open

    def test_an_answer_to_what_was_asked_before_does_not_end_it(self, breaker: CircuitBreaker, clock: Clock) -> None:
        with breaker.asking():
            clock.now += 1
            wait_in_vain(breaker, clock)
        assert breaker.is_open

    def test_other_errors_are_answers_or_nothing(self, breaker: CircuitBreaker) -> None:
        with pytest.raises(ValueError, match="x"), breaker.asking():
            raise ValueError("x")
        assert not breaker.is_open

    def test_what_a_driver_raised_is_seen_behind_the_error_that_wraps_it(self, breaker: CircuitBreaker) -> None:
        class Wrapped(Exception):  # noqa: N818
            orig = NoAnswer()

        with pytest.raises(Unavailable), breaker.asking():
            raise Wrapped
        assert breaker.is_open

    def test_of_many_at_once_one_asks(self, clock: Clock, breaker: CircuitBreaker) -> None:
        wait_in_vain(breaker, clock)
        asked, together = [], threading.Barrier(16)

        def ask(number: int) -> None:
            together.wait()
            try:
                with breaker.asking():
                    asked.append(number)
                    raise NoAnswer
            except Unavailable:
                pass

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(16)))
        assert len(asked) == 1


class TestPlaces:
    def test_who_finds_none_is_refused_soon(self) -> None:
        places = Places(POOL, 2, "The bucket 'b'", Unavailable, within_s=0.01)
        refused = pytest.raises(Unavailable, match="The bucket 'b' is overloaded")
        with places.taken(), places.taken(), refused, places.taken():
            raise AssertionError("taken")
        with places.taken(), places.taken():
            pass

    def test_an_error_gives_the_place_back(self) -> None:
        places = Places(POOL, 1, "it", Unavailable, within_s=0.01)
        for _ in range(3):
            with pytest.raises(ValueError, match="x"), places.taken():
                raise ValueError("x")
