"""The memory that requests may hold is never more than it may be, and nobody takes it all."""

from __future__ import annotations

import asyncio

import pytest

from registry.errors import RateLimited, Unavailable
from registry.held import Held


def test_a_caller_has_no_more_than_its_share_and_all_no_more_than_there_is() -> None:
    async def run() -> None:
        held = Held(total_bytes=100, share_bytes=60)
        await held.take("ana", 60)
        with pytest.raises(RateLimited, match="this token's"):
            await held.take("ana", 1, patience_s=0.01)
        await held.take("ben", 40)
        with pytest.raises(Unavailable) as caught:
            await held.take("cid", 1, patience_s=0.01)
        assert not isinstance(caught.value, RateLimited)
        held.give("ben", 40)
        await held.take("cid", 40)

    asyncio.run(run())


def test_who_waits_comes_in_when_there_is_room_and_who_has_none_of_their_own_holds_nobody_up() -> None:
    async def run() -> None:
        held = Held(total_bytes=100, share_bytes=60)
        await held.take("ana", 60)
        order: list[str] = []

        async def take(who: str) -> None:
            await held.take(who, 30)
            order.append(who)

        waiting = [asyncio.create_task(take("ana")), asyncio.create_task(take("ben"))]
        await asyncio.sleep(0)
        await asyncio.wait([waiting[1]])
        assert order == ["ben"]
        held.give("ana", 60)
        await asyncio.gather(*waiting)
        assert order == ["ben", "ana"]

    asyncio.run(run())


def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    async def run() -> None:
        held = Held(total_bytes=10, share_bytes=10)
        await held.take("ana", 10)
        waiting = asyncio.create_task(held.take("ben", 10))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.give("ana", 10)
        assert held.try_take("cid", 10)

    asyncio.run(run())
