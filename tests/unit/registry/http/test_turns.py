"""Places go by turns among the namespaces that wait: none starves, none takes all while others wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import let_others_run

from registry.errors import RateLimited, Unavailable
from registry.http.lanes import Turns


class Held:
    """Requests that have asked for places, by turns; each keeps its own until it is told to end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.tasks: list[asyncio.Task[None]] = []
        self.order: list[str] = []
        self._ends: list[asyncio.Event] = []
        self.running: list[int] = []

    async def ask(self, who: str, leaves: Callable[[], Awaitable[object]] | None = None) -> int:
        """Ask for a place; return the number of the request."""
        number = len(self.tasks)
        end = asyncio.Event()
        self._ends.append(end)

        async def work() -> None:
            async with self.turns.turn(who, leaves=leaves):
                self.order.append(who)
                self.running.append(number)
                await end.wait()
                self.running.remove(number)

        self.tasks.append(asyncio.create_task(work()))
        await let_others_run(6)
        return number

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await asyncio.wait([self.tasks[number]])
        await let_others_run(6)

    async def end_all(self) -> None:
        while self.running:
            await self.end(self.running[0])
        assert all(task.done() for task in self.tasks)


def test_a_namespace_alone_has_all_places_and_the_next_one_comes_before_its_others() -> None:
    async def run() -> None:
        held = Held(Turns(at_once=4))
        for _ in range(8):
            await held.ask("ana")
        assert held.order == ["ana"] * 4
        await held.ask("ben")
        await held.ask("ben")
        await held.ask("ben")
        for number in range(3):
            await held.end(number)
        # Two for each, although ana came first and waits for more.
        assert held.order[4:] == ["ben", "ben", "ana"]
        await held.end_all()
        assert Counter(held.order) == {"ana": 8, "ben": 3}

    asyncio.run(run())


def test_a_namespace_that_has_none_gets_a_place_though_another_came_alone_and_took_all() -> None:
    async def run() -> None:
        held = Held(Turns(at_once=2, newcomers=1))
        for _ in range(5):
            await held.ask("ana")
        await held.ask("ben")
        await held.ask("ben")
        assert held.order == ["ana", "ana", "ben"]
        await held.end_all()
        assert len(held.order) == 7

    asyncio.run(run())


def test_whose_last_turn_is_longest_ago_comes_next() -> None:
    async def run() -> None:
        held = Held(Turns(at_once=1))
        for who in ("ana", "ana", "ana", "ben", "ben", "cid"):
            await held.ask(who)
        await held.end_all()
        assert held.order == ["ana", "ana", "ben", "cid", "ana", "ben"]

    asyncio.run(run())


def test_a_client_that_leaves_gives_up_its_place_in_the_queue_and_no_other() -> None:
    async def run() -> None:
        held, gone = Held(Turns(at_once=1)), asyncio.Event()
        await held.ask("ana")
        leaver = await held.ask("ben", gone.wait)
        stays = await held.ask("ben", asyncio.Event().wait)
        gone.set()
        await let_others_run(6)
        with pytest.raises(Unavailable, match="has left"):
            await held.tasks[leaver]
        assert held.turns.by_holder == {"ana": 1, "ben": 1}
        await held.end(0)
        assert held.running == [stays]
        await held.end_all()
        assert held.turns.by_holder == {}

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(5))
def test_a_request_that_is_cancelled_at_any_moment_leaves_its_place_to_others(steps: int) -> None:
    async def run() -> None:
        held = Held(Turns(at_once=1))
        await held.ask("ana")
        waiting = await held.ask("ben", asyncio.Event().wait)
        ended = asyncio.create_task(held.end(0))
        await let_others_run(steps)
        held.tasks[waiting].cancel()
        await ended
        await asyncio.wait([held.tasks[waiting]])
        await let_others_run(6)
        assert held.turns.by_holder == {}

    asyncio.run(run())


def test_who_waits_too_long_is_told_whose_requests_are_in_the_way() -> None:
    async def run() -> None:
        held = Held(Turns(at_once=1, wait_s=0.0))
        await held.ask("ana")
        own, others = await held.ask("ana"), await held.ask("ben")
        with pytest.raises(RateLimited, match="others of this namespace"):
            await held.tasks[own]
        with pytest.raises(Unavailable, match="busy") as caught:
            await held.tasks[others]
        assert not isinstance(caught.value, RateLimited)
        await held.end_all()

    asyncio.run(run())


def test_no_namespace_takes_all_places_in_the_queue() -> None:
    async def run() -> None:
        held = Held(Turns(at_once=1, waiting=8))
        for _ in range(6):
            await held.ask("ana")
        with pytest.raises(RateLimited, match="of this namespace"):
            await held.tasks[5]
        # Each further namespace still finds some, until there is none.
        for who in ("ben", "ben", "ben", "cid", "cid"):
            await held.ask(who)
        assert [task.done() for task in held.tasks] == [False] * 5 + [True] + [False, False, True, False, True]
        await held.ask("dan")
        await held.ask("eve")
        with pytest.raises(Unavailable, match="too many"):
            await held.tasks[-1]
        await held.end_all()

    asyncio.run(run())


def test_who_has_no_token_waits_as_long_as_it_takes_however_many_do() -> None:
    async def run() -> None:
        turns, order = Turns(at_once=1, waiting=2, wait_s=0.0), []

        async def work(number: int) -> None:
            async with turns.turn("local", bounded=False):
                await let_others_run(6)
                order.append(number)

        await asyncio.gather(*map(work, range(9)))
        assert order == list(range(9))

    asyncio.run(run())


#: Ask for a place, as one of several namespaces; or end the request that has had one for longest, or shortest.
STEPS = st.lists(st.sampled_from(["ana", "ben", "cid", "dan", "oldest", "newest"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, at_once=st.integers(1, 5), newcomers=st.integers(0, 2))
def test_whatever_comes_the_places_are_shared_and_nobody_starves(
    steps: list[str], at_once: int, newcomers: int
) -> None:
    async def run() -> None:
        held = Held(Turns(at_once=at_once, newcomers=newcomers, waiting=1000))
        asked: list[str] = []
        for step in steps:
            before = len(held.order)
            if step in ("oldest", "newest"):
                if held.running:
                    await held.end(held.running[0 if step == "oldest" else -1])
            else:
                asked.append(step)
                await held.ask(step)
            running = Counter(asked[number] for number in held.running)
            waiting = Counter(asked) - Counter(held.order)
            assert running.total() <= at_once + newcomers
            # A place is only left free if nobody may have it.
            assert not waiting or running.total() >= at_once
            for who in held.order[before:]:
                others = [other for other in waiting if other != who]
                # Who was given one has no more than those that were passed over, by this one; and so no more than half.
                assert all(running[who] - 1 <= running[other] for other in others)
                assert not others or running[who] <= max(1, -(-at_once // 2))
        # Each waiting namespace has its turn before any other has had two: those that have fewest come first.
        while held.running:
            first = {who for who in Counter(asked) - Counter(held.order) if who not in {asked[n] for n in held.running}}
            begun = len(held.order)
            for _ in range(len(first) + len(held.running)):
                if held.running:
                    await held.end(held.running[0])
            assert first <= set(held.order[begun:])
        assert Counter(held.order) == Counter(asked)
        assert held.turns.by_holder == {}

    asyncio.run(run())
