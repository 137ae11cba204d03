"""Which versions are fetched for whom, how many there are at a time, and what never is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from pathlib import Path

import pytest
from support.memory_moves import MemoryWorld, Run
from support.serving_engine import BASE, adapter, digest_of

from sdk.gateway.moves.moves import NotServed, UnknownModel
from sdk.schemas.serving import ServedVersion


def test_versions_asked_for_by_number_are_loaded_once_and_the_least_used_goes(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", *range(1, 9), production=8)])
        await world.moves.settled()
        assert await asyncio.gather(*(world.answer("sql@v1") for _ in range(20))) == ["sql@v1"] * 20
        assert world.folders.fetches.count("sql@v1") == 1
        assert await world.answer("sql@v2") == "sql@v2"
        assert await world.answer("sql@v1") == "sql@v1"
        assert await world.answer("sql@v3") == "sql@v3"
        await world.moves.settled()
        assert world.engine.have.keys() == {"sql@v8", "sql@v1", "sql@v3"}

    run(MemoryWorld(tmp_path), scene)


def test_a_version_is_refused_while_all_places_are_in_use(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, 3, production=3)])
        async with world.request("sql@v1"), world.request("sql@v2"):
            world.moves.update([adapter("sql", 1, 2, 3, 4, production=3)])
            with pytest.raises(NotServed, match="all 2 places"):
                await world.answer("sql@v4")
            assert await world.answer("sql@production") == "sql@v3"
        assert await world.answer("sql@v4") == "sql@v4"

    run(MemoryWorld(tmp_path), scene)


def test_a_version_of_another_base_and_an_archived_one_are_not_fetched(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        table = adapter("sql", 1, 2, production=1)
        table.versions[0] = ServedVersion(number=1, digest=digest_of("sql@v1"), state="ready", base="c" * 64)
        table.versions[1] = ServedVersion(number=2, digest=digest_of("sql@v2"), state="archived", base=BASE)
        world.moves.update([table])
        with pytest.raises(NotServed, match="belongs to the base cccccccccccc"):
            await world.answer("sql@production")
        table.aliases["production"] = 2
        world.moves.update([table])
        with pytest.raises(NotServed, match="archived"):
            await world.answer("sql@production")
        assert world.folders.fetches == []
        assert await world.answer("sql@v2") == "sql@v2"

    run(MemoryWorld(tmp_path), scene)


def test_bogus_names_cost_neither_memory_nor_pulls(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, production=1), adapter("other", 1)])
        await world.moves.settled()
        # What begins like a name, of an adapter that isn't served here, and a number in other spellings.
        names = ["", "@", "sql@", "sql@@v1", "sql@v01", "sql@v٣", "../sql", "other", "other@v1", "sql@v1@v1", "x" * 512]
        for name in names:
            with pytest.raises(UnknownModel):
                await world.answer(name)

        async def ask(count: int) -> None:
            for number in range(count):
                with contextlib.suppress(UnknownModel):
                    await world.answer(f"sql@bogus-{number}")
            gc.collect()

        tracemalloc.start()
        await ask(100)
        before, _ = tracemalloc.get_traced_memory()
        await ask(10_000)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 10_000
        assert world.folders.fetches == ["sql@v1"]
        assert len(world.moves.state()) == 1

    run(MemoryWorld(tmp_path), scene)
