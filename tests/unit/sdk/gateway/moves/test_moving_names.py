"""Names that move while requests run: what each request gets, and when a version is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.memory_moves import MemoryWorld, Run
from support.serving_engine import Gate, adapter, digest_of, refusing

from sdk.errors import NotFound, Unavailable
from sdk.gateway.engines.engine import EngineRefused
from sdk.gateway.moves.moves import NotServed


def test_a_request_stays_on_its_version_while_the_alias_moves(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        async with world.request("sql@production") as old:
            world.moves.update([adapter("sql", 1, 2, production=2)])
            await world.moves.settled()
            assert await world.answer("sql@production") == "sql@v2"
            assert old == "sql@v1"
            assert world.engine.have["sql@v1"]

    run(MemoryWorld(tmp_path), scene)


def test_a_move_says_when_each_step_was_done(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await world.moves.settled()
        line = world.lines[-1]
        assert line.startswith("sql@production: sql@v1 → sql@v2; seen 20")
        steps = [line.index(word) for word in ("pulled", "loaded", "probed", "switched")]
        assert steps == sorted(steps)

    run(MemoryWorld(tmp_path), scene)


def test_a_rollback_needs_no_step_of_the_engine(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        for number in (1, 2):
            world.moves.update([adapter("sql", 1, 2, production=number)])
            await world.moves.settled()
        before = [step for step in world.engine.steps if not step.startswith("loaded")]
        world.moves.update([adapter("sql", 1, 2, production=1)])
        # It has moved when the table was taken.
        assert world.means() == "sql@v1"
        assert [step for step in world.engine.steps if not step.startswith("loaded")] == before

    run(MemoryWorld(tmp_path), scene)


@pytest.mark.parametrize("step", ["fetch", "load", "score"])
def test_the_old_version_goes_on_while_a_step_lasts_and_after_it_failed(tmp_path: Path, run: Run, step: str) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        gate = Gate(step, "sql@v2")

        async def before(at: str, name: str) -> None:
            await gate(at, name)
            if (at, name) == (step, "sql@v2"):
                raise NotFound("gone; push it again") if step == "fetch" else EngineRefused("no; push it again")

        world.folders.before = world.engine.before = before
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await gate.reached.wait()
        assert await world.answer("sql@production") == "sql@v1"
        gate.open.set()
        await world.moves.settled()
        assert await world.answer("sql@production") == "sql@v1"
        (status,) = world.moves.names()
        assert status.reason is not None
        assert status.reason.endswith("push it again")
        assert "sql@production stays sql@v1" in world.lines[-1]
        assert world.engine.have.keys() == {"sql@v1"}
        assert world.folders.leased == [digest_of("sql@v1")]

    run(MemoryWorld(tmp_path), scene)


def test_a_refused_version_is_not_tried_in_a_loop_but_after_a_pause_and_when_the_table_changes(
    tmp_path: Path, run: Run
) -> None:
    async def scene(world: MemoryWorld) -> None:
        world.engine.before = refusing("its rank is too high; train it again", "sql@v2")
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await world.moves.settled()
        for _ in range(20):
            with pytest.raises(NotServed, match="its rank is too high"):
                await world.answer("sql@production")
            world.moves.update([adapter("sql", 1, 2, production=2)])
        assert world.folders.fetches == ["sql@v2"]
        world.moves.update([adapter("sql", 1, 2, production=2, staging=1)])
        await world.moves.settled()
        assert world.folders.fetches == ["sql@v2"] * 2
        await world.until(lambda: len(world.folders.fetches) == 3)
        # It is said once.
        assert sum("is refused" in line for line in world.lines) == 1

    run(MemoryWorld(tmp_path), scene)


def test_what_passes_by_itself_is_soon_tried_again(tmp_path: Path, run: Run) -> None:
    async def scene(world: MemoryWorld) -> None:
        failures = iter([Unavailable("the registry can't be reached; start it")] * 2)

        def before(step: str, name: str) -> None:
            if step == "fetch" and (error := next(failures, None)):
                raise error

        world.folders.before = before
        world.moves.update([adapter("sql", 1, production=1)])
        await world.until(lambda: world.means() == "sql@v1")

    run(MemoryWorld(tmp_path), scene)
