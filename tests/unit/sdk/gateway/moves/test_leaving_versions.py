"""Versions that are deleted, made anew or replaced: who still gets them, and when they have left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.memory_moves import MemoryWorld, Run
from support.serving_engine import BASE, Gate, adapter, digest_of

from sdk.errors import Unavailable
from sdk.gateway.moves.moves import UnknownModel
from sdk.schemas.serving import ServedVersion


@pytest.mark.parametrize("step", ["fetch", "load", "score"])
def test_a_version_that_is_deleted_on_its_way_in_is_never_served(tmp_path: Path, run: Run, step: str) -> None:
    async def scene(world: MemoryWorld) -> None:
        gate = Gate(step, "sql@v2")
        world.folders.before = world.engine.before = gate
        world.moves.update([adapter("sql", 1, 2, production=2)])
        asking = asyncio.create_task(world.answer("sql@v2"))
        await gate.reached.wait()
        world.moves.update([adapter("sql", 1)])
        gate.open.set()
        with pytest.raises(UnknownModel):
            await asking
        await world.moves.settled()
        assert world.engine.have == {}
        assert world.folders.leased == []

    run(MemoryWorld(tmp_path), scene)


def test_a_deleted_version_gets_no_new_request_and_is_released_after_its_last(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, production=1)])
        async with world.moves.hold("sql@production") as held:
            world.moves.update([adapter("sql")])
            assert held.withdrawn.is_set()
            with pytest.raises(UnknownModel):
                await world.answer("sql@production")
            with pytest.raises(UnknownModel):
                await world.answer("sql@v1")
            await asyncio.sleep(0.05)
            assert world.engine.have
        await world.moves.settled()
        assert world.engine.have == {}
        assert world.folders.leased == []

    run(MemoryWorld(tmp_path), scene)


def test_a_number_that_means_other_bytes_is_loaded_after_the_old_ones_have_left(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, production=1)])
        await world.moves.settled()
        again = adapter("sql", 1, production=1)
        other = digest_of("sql@v1", "made anew")
        again.versions[0] = ServedVersion(number=1, digest=other, state="ready", base=BASE)
        async with world.request("sql@production"):
            world.moves.update([again])
            asking = asyncio.create_task(world.answer("sql@production"))
            await asyncio.sleep(0.05)
            assert not asking.done()
        assert await asking == "sql@v1"
        assert world.engine.have["sql@v1"].name == other
        assert world.folders.leased == [other]

    run(MemoryWorld(tmp_path), scene)


def test_a_version_that_is_leaving_is_brought_in_anew_for_who_asks_meanwhile(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        assert await world.answer("sql@v2") == "sql@v2"
        gate = Gate("release", "sql@v2")
        world.engine.before = gate
        world.moves.update([adapter("sql", 1, production=1)])
        await gate.reached.wait()
        world.moves.update([adapter("sql", 1, 2, production=1)])
        asking = asyncio.create_task(world.answer("sql@v2"))
        await asyncio.sleep(0.03)
        assert not asking.done()
        gate.open.set()
        assert await asking == "sql@v2"
        assert world.engine.steps.count("load sql@v2") == 2

    run(MemoryWorld(tmp_path), scene)


def test_a_version_whose_lease_does_not_end_at_once_is_released_in_the_end(tmp_path: Path, run: Run) -> None:
    fails = 1

    def full(step: str, _name: str) -> None:
        nonlocal fails
        if step == "unlease" and fails:
            fails -= 1
            raise Unavailable("the disk is full; make room")

    async def scene(world: MemoryWorld) -> None:
        world.folders.before = full
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        # Deleted, then there again.
        world.moves.update([adapter("sql", 2, production=2)])
        await world.until(lambda: world.state("sql@v1") is None)
        assert not fails
        assert world.folders.leased == [digest_of("sql@v2")]
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        assert await world.answer("sql@production") == "sql@v1"

    run(MemoryWorld(tmp_path), scene)
