"""Names that move while requests run: what each request gets, and what the engine and the cache are spared."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.serving_engine import BASE, Gate, MemoryEngine, MemoryFolders, adapter, digest_of, prove, refusing

from sdk.errors import NotFound, Unavailable
from sdk.gateway.engines.engine import EngineRefused, OtherBase
from sdk.gateway.moves import Bounds, Moves, NotServed, UnknownModel
from sdk.gateway.versions import Proof, ServingState
from sdk.schemas.serving import ServedVersion

QUICK = Bounds(spares=2, wait_s=5.0, pause_s=0.3, passing_s=0.02, passing_most_s=0.05, watch_s=0.02)


class World:
    """Moves over an engine in memory."""

    def __init__(self, root: Path, *refs: str, bounds: Bounds = QUICK, **options: Any) -> None:
        self.folders = MemoryFolders(root)
        self.engine = MemoryEngine(self.folders)
        self.lines: list[str] = []
        self.moves = Moves(
            self.engine,
            refs=refs or ("sql@production",),
            base=BASE,
            folders=self.folders,
            **{"prove": prove, **options},
            say=self.lines.append,
            bounds=bounds,
        )

    @asynccontextmanager
    async def request(self, model: str) -> AsyncIterator[str]:
        """Run a request for the block; yield what it got."""
        async with self.moves.hold(model) as held:
            name = str(held.version)
            assert self.engine.route(name)
            assert self.engine.have[name].name == held.digest
            assert held.digest in self.folders.leased
            # An engine that was killed has forgotten its requests.
            running = self.engine.running
            running[name] = running.get(name, 0) + 1
            try:
                yield name
            finally:
                running[name] -= 1

    async def answer(self, model: str) -> str:
        async with self.request(model) as name:
            return name

    def means(self, name: str = "sql@production") -> str | None:
        return next(each.serving for each in self.moves.names() if each.name == name)

    def state(self, name: str) -> ServingState | None:
        return next((each.state for each in self.moves.state() if each.name == name), None)

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.005)


@pytest.fixture
def run() -> Callable[[World, Callable[[World], Coroutine[Any, Any, None]]], None]:
    def run(world: World, scene: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def all_of_it() -> None:
            await world.moves.start()
            try:
                async with asyncio.timeout(30):
                    await scene(world)
            finally:
                await world.moves.close()
            assert world.engine.faults == []

        asyncio.run(all_of_it())

    return run


Run = Callable[[World, Callable[[World], Coroutine[Any, Any, None]]], None]


def test_a_request_stays_on_its_version_while_the_alias_moves(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        async with world.request("sql@production") as old:
            world.moves.update([adapter("sql", 1, 2, production=2)])
            await world.moves.settled()
            assert await world.answer("sql@production") == "sql@v2"
            assert old == "sql@v1"
            assert world.engine.have["sql@v1"]

    run(World(tmp_path), scene)


def test_a_move_says_when_each_step_was_done(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await world.moves.settled()
        line = world.lines[-1]
        assert line.startswith("sql@production: sql@v1 → sql@v2; seen 20")
        steps = [line.index(word) for word in ("pulled", "loaded", "probed", "switched")]
        assert steps == sorted(steps)

    run(World(tmp_path), scene)


def test_a_rollback_needs_no_step_of_the_engine(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        for number in (1, 2):
            world.moves.update([adapter("sql", 1, 2, production=number)])
            await world.moves.settled()
        before = [step for step in world.engine.steps if not step.startswith("loaded")]
        world.moves.update([adapter("sql", 1, 2, production=1)])
        # It has moved when the table was taken.
        assert world.means() == "sql@v1"
        assert [step for step in world.engine.steps if not step.startswith("loaded")] == before

    run(World(tmp_path), scene)


@pytest.mark.parametrize("step", ["fetch", "load", "score"])
def test_the_old_version_goes_on_while_a_step_lasts_and_after_it_failed(tmp_path: Path, run: Run, step: str) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_a_refused_version_is_not_tried_in_a_loop_but_after_a_pause_and_when_the_table_changes(
    tmp_path: Path, run: Run
) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_what_passes_by_itself_is_soon_tried_again(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        failures = iter([Unavailable("the registry can't be reached; start it")] * 2)

        def before(step: str, name: str) -> None:
            if step == "fetch" and (error := next(failures, None)):
                raise error

        world.folders.before = before
        world.moves.update([adapter("sql", 1, production=1)])
        await world.until(lambda: world.means() == "sql@v1")

    run(World(tmp_path), scene)


@pytest.mark.parametrize("step", ["fetch", "load", "score"])
def test_a_version_that_is_deleted_on_its_way_in_is_never_served(tmp_path: Path, run: Run, step: str) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_a_deleted_version_gets_no_new_request_and_is_released_after_its_last(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_a_number_that_means_other_bytes_is_loaded_after_the_old_ones_have_left(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_a_version_that_is_leaving_is_brought_in_anew_for_who_asks_meanwhile(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_versions_asked_for_by_number_are_loaded_once_and_the_least_used_goes(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        world.moves.update([adapter("sql", *range(1, 9), production=8)])
        await world.moves.settled()
        assert await asyncio.gather(*(world.answer("sql@v1") for _ in range(20))) == ["sql@v1"] * 20
        assert world.folders.fetches.count("sql@v1") == 1
        assert await world.answer("sql@v2") == "sql@v2"
        assert await world.answer("sql@v1") == "sql@v1"
        assert await world.answer("sql@v3") == "sql@v3"
        await world.moves.settled()
        assert world.engine.have.keys() == {"sql@v8", "sql@v1", "sql@v3"}

    run(World(tmp_path), scene)


def test_a_version_is_refused_while_all_places_are_in_use(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        world.moves.update([adapter("sql", 1, 2, 3, production=3)])
        async with world.request("sql@v1"), world.request("sql@v2"):
            world.moves.update([adapter("sql", 1, 2, 3, 4, production=3)])
            with pytest.raises(NotServed, match="all 2 places"):
                await world.answer("sql@v4")
            assert await world.answer("sql@production") == "sql@v3"
        assert await world.answer("sql@v4") == "sql@v4"

    run(World(tmp_path), scene)


def test_an_engine_that_was_killed_has_all_names_back_and_requests_wait_for_it(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path, "sql@production", "names"), scene)


def test_the_old_version_is_brought_back_although_the_new_one_is_refused(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
        world.moves.update([adapter("sql", 1, 2, production=1)])
        await world.moves.settled()
        world.engine.before = refusing("no; push it again", "sql@v2")
        world.moves.update([adapter("sql", 1, 2, production=2)])
        await world.moves.settled()
        world.engine.kill()
        await world.until(lambda: world.moves.trouble)
        world.engine.is_up = True
        assert await world.answer("sql@production") == "sql@v1"

    run(World(tmp_path), scene)


def test_an_engine_that_comes_back_with_another_base_serves_nothing(tmp_path: Path, run: Run) -> None:
    is_other = False

    async def judge(engine: Any, name: str, digest: str) -> Proof:
        if is_other:
            raise EngineRefused("the engine has another base; start it with the right one")
        return await prove(engine, name, digest)

    async def scene(world: World) -> None:
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

    run(World(tmp_path, prove=judge), scene)


def test_the_base_of_an_engine_that_has_another_one_is_not_served(tmp_path: Path, run: Run) -> None:
    is_right = True

    async def proving(engine: MemoryEngine, name: str, digest: str) -> Proof:
        await engine.score(name, [1], [2])
        if not is_right:
            raise OtherBase("it is another base")
        return Proof.PASSED

    async def scene(world: World) -> None:
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

    run(World(tmp_path, prove=proving), scene)


def test_an_engine_that_does_not_answer_at_the_start_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        world = World(tmp_path)
        world.engine.is_up = False
        with pytest.raises(EngineRefused, match="doesn't answer"):
            await world.moves.start()
        await world.moves.close()

    asyncio.run(body())


def test_an_engine_is_still_watched_after_an_answer_that_makes_no_sense(tmp_path: Path, run: Run) -> None:
    def nonsense(step: str, _name: str) -> None:
        if step == "loaded":
            raise ValueError("no JSON")

    async def scene(world: World) -> None:
        world.moves.update([adapter("sql", 1, production=1)])
        await world.moves.settled()
        world.engine.before = nonsense
        await asyncio.sleep(0.1)
        world.engine.before = lambda _step, _name: None
        world.engine.have.clear()
        await world.until(lambda: world.engine.have)
        assert await world.answer("sql@production") == "sql@v1"

    run(World(tmp_path), scene)


def test_a_version_whose_lease_does_not_end_at_once_is_released_in_the_end(tmp_path: Path, run: Run) -> None:
    fails = 1

    def full(step: str, _name: str) -> None:
        nonlocal fails
        if step == "unlease" and fails:
            fails -= 1
            raise Unavailable("the disk is full; make room")

    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_an_engine_that_dies_during_a_move_serves_the_new_version_when_it_is_back(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_what_an_earlier_gateway_left_in_the_engine_is_taken_out(tmp_path: Path, run: Run) -> None:
    world = World(tmp_path)
    world.folders.leased.append("left")
    world.engine.have["sql@v9"] = tmp_path / "left"

    async def scene(world: World) -> None:
        assert world.engine.have == {}

    run(world, scene)


def test_a_version_of_another_base_and_an_archived_one_are_not_fetched(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


def test_bogus_names_cost_neither_memory_nor_pulls(tmp_path: Path, run: Run) -> None:
    async def scene(world: World) -> None:
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

    run(World(tmp_path), scene)


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_of_moves_requests_failures_and_kills_mixes_or_leaks(tmp_path: Path, run: Run, seed: int) -> None:
    """Every request gets a version that one of its names meant while it waited, whole, leased, and in the engine until its end."""
    chance = random.Random(seed)

    async def scene(world: World) -> None:
        numbers = set(range(1, 7))
        production = 1

        async def before(step: str, name: str) -> None:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if step in ("fetch", "load", "score") and chance.random() < 0.1:
                raise chance.choice([EngineRefused("no; try again"), Unavailable("away; try again"), OSError("disk")])

        def update() -> None:
            world.moves.update([adapter("sql", *numbers, production=production)])

        async def ask() -> None:
            for _ in range(25):
                model = chance.choice(["sql@production", "sql@production", f"sql@v{chance.randint(1, 7)}"])
                try:
                    async with asyncio.timeout(1), world.request(model) as name:
                        assert model in (name, "sql@production")
                        for _ in range(chance.randrange(8)):
                            await asyncio.sleep(0)
                except (NotServed, UnknownModel, TimeoutError):
                    # Refused, deleted, or not there soon enough.
                    await asyncio.sleep(0.001)

        async def disturb() -> None:
            nonlocal production
            for _ in range(60):
                await asyncio.sleep(0.001 * chance.randrange(4))
                what = chance.random()
                if what < 0.6:
                    production = chance.choice(sorted(numbers))
                elif what < 0.75:
                    numbers.symmetric_difference_update({chance.choice([n for n in range(1, 7) if n != production])})
                elif what < 0.85:
                    world.engine.kill()
                    await asyncio.sleep(0.003)
                    world.engine.is_up = True
                update()

        world.folders.before = world.engine.before = before
        update()
        await asyncio.gather(disturb(), *(ask() for _ in range(8)))
        world.folders.before = world.engine.before = lambda _step, _name: None
        numbers.add(production)
        update()
        await world.until(lambda: world.means() == f"sql@v{production}")
        await world.moves.settled()
        assert all(each.running == 0 for each in world.moves.state())

        def is_even() -> bool:
            """Whether engine, leases and moves agree; an engine that was killed at the very end is noticed first."""
            serving = {each.name: each.digest for each in world.moves.state() if each.state is ServingState.SERVING}
            leased = sorted(world.folders.leased)
            return world.engine.have.keys() == serving.keys() and leased == sorted(serving.values())

        await world.until(is_even)
        assert world.means() == f"sql@v{production}"
        assert len(world.engine.have) <= 1 + QUICK.spares

    run(World(tmp_path), scene)
