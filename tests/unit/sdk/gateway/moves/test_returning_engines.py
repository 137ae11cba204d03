"""Engines that die, come back, or come back as another: what is served then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.memory_moves import MemoryWorld, Run
from support.serving_engine import Gate, MemoryEngine, adapter, digest_of, prove, refusing

from sdk.gateway.engines.engine import EngineDied, EngineRefused, OtherBase
from sdk.gateway.moves.moves import NotServed
from sdk.gateway.moves.placed_versions import Bounds
from sdk.gateway.moves.versions import Proof, ServingState


def test_an_engine_that_was_killed_has_all_names_back_and_requests_wait_for_it(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=2), adapter("names", 1, live=1)])
        await world.moves.settled()
        assert await world.answer("sql@v1") == "sql@v1"
        world.engine.kill()
        await world.until(lambda: world.moves.trouble)
        asking = [asyncio.create_task(world.answer(name)) for name in ("sql@production", "sql@v1", "names@live")]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in asking)
        world.engine.is_up = True
        assert await asyncio.gather(*asking) == ["sql@v2", "sql@v1", "names@v1"]
        assert len(world.folders.leased) == 3

    run(MemoryWorld(tmp_path, "sql@production", "names"), scene)


def test_an_engine_that_dies_before_it_is_ready_is_started_again_and_one_that_refuses_is_not(
    tmp_path: Path, run: Run
) -> None:
    died = EngineDied("the engine program ended (killed by signal 9) before it was ready; start it again")
    errors: list[EngineRefused] = [died, died]

    def fail(step: str, _name: str) -> None:
        if step == "facts" and errors:
            raise errors.pop()

    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, production=1)])
        assert await world.answer("sql@production") == "sql@v1"
        assert sum("it is tried again in" in line for line in world.lines) == 2

    world = MemoryWorld(tmp_path, bounds=Bounds(start_pauses_s=(0.01, 0.01)))
    world.engine.before = fail
    run(world, scene)
    assert not errors
    for last in ([EngineRefused("it isn't vLLM; give its URL")], [died] * 3):
        errors.extend(last)
        world = MemoryWorld(tmp_path, bounds=Bounds(start_pauses_s=(0.01, 0.01)))
        world.engine.before = fail
        with pytest.raises(EngineRefused):
            run(world, scene)
        assert not errors


def test_the_old_version_is_brought_back_although_the_new_one_is_refused(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        world.engine.before = refusing("no; push it again", "sql@v2")
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await world.moves.settled()
        world.engine.kill()
        await world.until(lambda: world.moves.trouble)
        world.engine.is_up = True
        assert await world.answer("sql@production") == "sql@v1"

    run(MemoryWorld(tmp_path), scene)


def test_an_engine_that_comes_back_with_another_base_serves_nothing(tmp_path: Path, run: Run) -> None:
    is_other = False

    async def judge(engine: Any, name: str, digest: str) -> Proof:
        if is_other:
            raise EngineRefused("the engine has another base; start it with the right one")
        return await prove(engine, name, digest)

    async def scene(world: MemoryWorld) -> None:
        nonlocal is_other
        world.moves.update([adapter("sql", 1, production=1)])
        await world.moves.settled()
        world.engine.kill()
        is_other = True
        await world.until(lambda: world.moves.trouble)
        world.engine.is_up = True
        with pytest.raises(NotServed, match="another base"):
            await world.answer("sql@production")
        assert world.engine.have == {}

    run(MemoryWorld(tmp_path, prove=judge), scene)


def test_the_base_of_an_engine_that_has_another_one_is_not_served(tmp_path: Path, run: Run) -> None:
    is_right = True

    async def proving(engine: MemoryEngine, name: str, digest: str) -> Proof:
        await engine.score(name, [1], [2])
        if not is_right:
            raise OtherBase("it is another base")
        return Proof.PASSED

    async def scene(world: MemoryWorld) -> None:
        nonlocal is_right
        world.moves.update([adapter("sql", 1, production=1)])
        await world.moves.settled()
        async with world.moves.hold(None) as held:
            assert held.version is None
        is_right = False
        world.engine.kill()
        await world.until(lambda: world.moves.trouble)
        gate = Gate("score", "sql@v1")
        world.engine.before, world.engine.is_up = gate, True
        await gate.reached.wait()
        asked = asyncio.ensure_future(world.moves.hold(None).__aenter__())
        await asyncio.sleep(0.05)
        # The engine is there, and nobody knows yet with which base.
        assert not asked.done()
        leaving = Gate("release", "sql@v1")
        world.engine.before = leaving
        gate.open.set()
        # Also while it is taken out.
        await leaving.reached.wait()
        with pytest.raises(NotServed, match="another one"):
            async with world.moves.hold(None):
                pass
        with pytest.raises(NotServed, match="base isn't served"):
            await asked
        leaving.open.set()
        await world.until(lambda: world.state("sql@v1") is ServingState.REFUSED)
        with pytest.raises(NotServed, match="it is another base"):
            async with world.moves.hold(None):
                pass
        is_right = True
        await world.until(lambda: world.means() == "sql@v1" and world.state("sql@v1") is ServingState.SERVING)
        async with world.moves.hold(None):
            pass

    run(MemoryWorld(tmp_path, prove=proving), scene)


def test_an_engine_that_does_not_answer_at_the_start_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        world = MemoryWorld(tmp_path)
        world.engine.is_up = False
        with pytest.raises(EngineRefused, match="doesn't answer"):
            await world.moves.start()
        await world.moves.close()

    asyncio.run(body())


def test_an_engine_is_still_watched_after_an_answer_that_makes_no_sense(tmp_path: Path, run: Run) -> None:
    def nonsense(step: str, _name: str) -> None:
        if step == "loaded":
            raise ValueError("no JSON")

    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, production=1)])
        await world.moves.settled()
        world.engine.before = nonsense
        await asyncio.sleep(0.1)
        world.engine.before = lambda _step, _name: None
        world.engine.have.clear()
        await world.until(lambda: world.engine.have)
        assert await world.answer("sql@production") == "sql@v1"

    run(MemoryWorld(tmp_path), scene)


def test_an_engine_that_dies_during_a_move_serves_the_new_version_when_it_is_back(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        gate = Gate("score", "sql@v2")
        world.engine.before = gate
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await gate.reached.wait()
        world.engine.kill()
        gate.open.set()
        await world.until(lambda: world.moves.trouble)
        world.engine.is_up = True
        await world.until(lambda: world.means() == "sql@v2")
        assert sorted(world.folders.leased) == sorted([digest_of("sql@v1"), digest_of("sql@v2")])

    run(MemoryWorld(tmp_path), scene)


def test_what_an_earlier_gateway_left_in_the_engine_is_taken_out(tmp_path: Path, run: Run) -> None:
    world = MemoryWorld(tmp_path)
    world.folders.leased.append("left")
    world.engine.have["sql@v9"] = tmp_path / "left"

    async def scene(world: MemoryWorld) -> None:
        assert world.engine.have == {}

    run(world, scene)
