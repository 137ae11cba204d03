"""The memory that requests may hold is never more than it may be, and nobody takes it all."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import let_others_run

from registry.door.memory_budget import MemoryBudget
from registry.errors import RateLimited, Unavailable


def test_a_caller_has_no_more_than_its_share_and_all_no_more_than_there_is() -> None:
    async def run() -> None:
        budget = MemoryBudget(total_bytes=100, share_bytes=60)
        await budget.take("ana", 60)
        with pytest.raises(RateLimited, match="of this namespace"):
            await budget.take("ana", 1, timeout_s=0.01)
        await budget.take("ben", 40)
        with pytest.raises(Unavailable) as caught:
            await budget.take("cid", 1, timeout_s=0.01)
        assert not isinstance(caught.value, RateLimited)
        budget.give("ben", 40)
        await budget.take("cid", 40)

    asyncio.run(run())


def test_who_waits_comes_in_when_there_is_room_and_who_has_none_of_their_own_holds_nobody_up() -> None:
    async def run() -> None:
        budget = MemoryBudget(total_bytes=100, share_bytes=60)
        await budget.take("ana", 60)
        order: list[str] = []

        async def take(who: str) -> None:
            await budget.take(who, 30)
            order.append(who)

        waiting = [asyncio.create_task(take("ana")), asyncio.create_task(take("ben"))]
        await let_others_run()
        await asyncio.wait([waiting[1]])
        assert order == ["ben"]
        budget.give("ana", 60)
        await asyncio.gather(*waiting)
        assert order == ["ben", "ana"]

    asyncio.run(run())


def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    async def run() -> None:
        budget = MemoryBudget(total_bytes=10, share_bytes=10)
        await budget.take("ana", 10)
        waiting = asyncio.create_task(budget.take("ben", 10))
        await let_others_run()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        budget.give("ana", 10)
        assert budget.try_take("cid", 10)

    asyncio.run(run())


def test_nobody_overtakes_who_waits_for_room_that_all_have() -> None:
    async def run() -> None:
        budget = MemoryBudget(total_bytes=100, share_bytes=60)
        await budget.take("ana", 45)
        await budget.take("ben", 45)
        order: list[str] = []

        async def take(who: str, size_bytes: int) -> None:
            await budget.take(who, size_bytes)
            order.append(who)

        waiting = [asyncio.create_task(take("cid", 50)), asyncio.create_task(take("dan", 5))]
        await let_others_run(5)
        assert not order
        budget.give("ana", 45)
        await asyncio.gather(*waiting)
        assert order == ["cid", "dan"]

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(4))
def test_a_cancellation_that_comes_with_the_room_is_none_the_less_one(turns: int) -> None:
    async def run() -> None:
        budget = MemoryBudget(total_bytes=10, share_bytes=10)
        await budget.take("ana", 10)
        waiting = asyncio.create_task(budget.take("ben", 10))
        await let_others_run(3)
        budget.give("ana", 10)
        await let_others_run(turns)
        has_taken = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() is not has_taken
        assert ("ben" in budget.by_holder) is has_taken

    asyncio.run(run())
