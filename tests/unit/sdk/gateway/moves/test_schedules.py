"""Random schedules of everything that may happen to names and versions."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from support.memory_moves import QUICK, MemoryWorld, Run
from support.serving_engine import adapter

from sdk.errors import Unavailable
from sdk.gateway.engines.engine import EngineRefused
from sdk.gateway.moves.moves import NotServed, UnknownModel
from sdk.gateway.moves.versions import ServingState


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_of_moves_requests_failures_and_kills_mixes_or_leaks(tmp_path: Path, run: Run, seed: int) -> None:
    """Every request gets a version that one of its names meant while it waited, whole, leased, and in the engine until its end."""
    chance = random.Random(seed)

    async def scene(world: MemoryWorld) -> None:
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

    run(MemoryWorld(tmp_path), scene)
