"""Real engines while an alias moves and streams run: each answer is one version's, whole, and none is an error."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.engines import EngineInLoop, decoder
from support.moving import MovingWorld
from support.served_models import ServedModels, without_effect

from sdk.gateway.moves.moves import Bounds, NotServed
from sdk.gateway.moves.versions import Proof

#: Streams at once and moves between two versions: few in `make test`, all in `make serve-peers`.
IS_WHOLE = os.environ.get("ADAPTERCTL_PEERS") == "1"
STREAMS, MOVES = (16, 20) if IS_WHOLE else (4, 4)
#: Between two requests of a stream, in seconds. On a busy machine a move takes long, and streams without a pause compute meanwhile.
PAUSE_S = 0.0 if IS_WHOLE else 0.1


@pytest.fixture(scope="module")
def models(five_versions: ServedModels) -> ServedModels:
    return five_versions


@pytest.fixture
def scene(running: EngineInLoop, models: ServedModels) -> Callable[..., None]:
    """Runs something with a gateway of its own in front of one engine."""
    runner, engine = running

    def run(body: Callable[[MovingWorld], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def whole() -> None:
            world = MovingWorld(engine, models, decode=decoder(models.base), **options)
            try:
                async with asyncio.timeout(380):
                    await world.moves.start()
                    await body(world)
            finally:
                await world.moves.close(ends_engine=False)

        runner.run(whole())

    return run


def test_streams_stay_whole_while_an_alias_moves(scene: Callable[..., None], models: ServedModels) -> None:
    async def body(world: MovingWorld) -> None:
        await world.moved(1)
        await world.moved(2)
        done = asyncio.Event()

        async def stream(at: int) -> None:
            while not done.is_set():
                await world.ask(at)
                at += 1
                await asyncio.sleep(PAUSE_S)

        streams = [asyncio.create_task(stream(at)) for at in range(STREAMS)]
        for move in range(MOVES):
            await world.moved(1 + move % 2)
            before = world.answers.pure.total()
            while world.answers.pure.total() < before + STREAMS // 2 and not world.answers.errors:
                await asyncio.sleep(0.01)
        # And to versions that were never loaded.
        times_s = [await world.moved(number) for number in ((3, 4, 5) if IS_WHOLE else (3,))]
        done.set()
        await asyncio.gather(*streams)
        print(
            f"\n{(await world.engine.facts()).engine}: {STREAMS} streams, {MOVES} moves: {world.answers}; first moves {times_s} s"
        )
        assert world.answers.mixed == world.answers.errors == []
        assert {"sql@v1", "sql@v2"} <= world.answers.pure.keys()
        assert await world.ask(0) == world.means()

    scene(body)


def test_an_engine_without_the_adapter_s_effect_or_with_another_adapter_is_found_out(
    scene: Callable[..., None], models: ServedModels, tmp_path: Path
) -> None:
    folders = {
        "sql@v1": models.adapters["sql@v1"],
        "sql@v2": without_effect(models, tmp_path / "without"),
        # Another one than its record is of.
        "sql@v3": models.adapters["sql@v4"],
    }

    async def body(world: MovingWorld) -> None:
        await world.moved(1)
        # The first is refused by our engine itself, and by its answers in front of the others.
        for number, reason in ((2, "no effect|changes nothing"), (3, "another adapter")):
            world.point(number)
            await world.moves.settled()
            (name,) = world.moves.names()
            assert re.search(reason, str(name.reason))
            assert await world.ask(0) == "sql@v1"
            with pytest.raises(NotServed, match=reason):
                async with world.moves.hold(f"sql@v{number}"):
                    pass
        assert [each.proof for each in world.moves.state() if each.name == "sql@v1"] == [Proof.PASSED]
        assert await world.engine.loaded() == {"sql@v1"}
        assert world.source.leased == [models.adapters["sql@v1"]]

    scene(body, folders=folders)


def test_an_engine_that_was_killed_has_its_names_back_within_ten_seconds_of_being_up(
    scene: Callable[..., None],
) -> None:
    async def body(world: MovingWorld) -> None:
        if not hasattr(world.engine, "pid"):
            pytest.skip("vLLM is killed by a test of its own")
        await world.moved(1)
        assert await world.ask(0, "sql@v2") == "sql@v2"
        os.kill(world.engine.pid, signal.SIGKILL)
        while world.moves.trouble is None:
            await asyncio.sleep(0.01)
        while world.moves.trouble is not None:
            await asyncio.sleep(0.01)
        up_s = time.monotonic()
        assert [await world.ask(0), await world.ask(1, "sql@v2")] == ["sql@v1", "sql@v2"]
        assert time.monotonic() - up_s < 10
        assert world.answers.errors == []

    scene(body)


def test_a_folder_that_is_gone_hurts_nothing_that_is_loaded(
    scene: Callable[..., None], models: ServedModels, tmp_path: Path
) -> None:
    folders = {
        name: Path(shutil.copytree(folder, tmp_path / name.replace("@", "-")))
        for name, folder in models.adapters.items()
    }

    async def body(world: MovingWorld) -> None:
        await world.moved(1)
        # Leases prevent this; an engine lives through it nevertheless.
        shutil.rmtree(folders["sql@v1"])
        for number in (2, 3, 4, 5):
            assert await world.ask(0, f"sql@v{number}") == f"sql@v{number}"
        assert await world.ask(1) == "sql@v1"
        assert world.answers.errors == world.answers.mixed == []

    scene(body, folders=folders, bounds=Bounds(spares=4, wait_s=120, watch_s=0.5))
