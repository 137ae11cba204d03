"""Readiness: asked once for all, within a deadline, and told as what it is that is away."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support import registries
from support.registries import World

from registry.app.readiness import Readiness
from registry.errors import Unavailable
from registry.http.paths import HEALTHZ, READYZ


class Part:
    """Something that a server needs, which can be held up and can fail."""

    def __init__(self) -> None:
        self.looks = 0
        self.error: Exception | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()

    def look(self) -> None:
        self.looks += 1
        assert self.goes_on.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def parts() -> dict[str, Part]:
    return {"database": Part(), "storage": Part()}


def readiness_of(parts: dict[str, Part], clock: Callable[[], float] = time.monotonic) -> Readiness:
    return Readiness({name: part.look for name, part in parts.items()}, deadline_s=0.2, clock=clock)


def test_all_is_well_and_asked_once_a_second_however_many_ask(parts: dict[str, Part]) -> None:
    now = 100.0
    readiness = readiness_of(parts, lambda: now)

    async def ask(times: int) -> None:
        await asyncio.gather(*(readiness.require() for _ in range(times)))

    asyncio.run(ask(20))
    # Another loop, the same answer.
    asyncio.run(ask(20))
    assert [part.looks for part in parts.values()] == [1, 1]
    now += 1.1
    asyncio.run(ask(1))
    assert [part.looks for part in parts.values()] == [2, 2]


def test_each_part_that_is_away_is_named(parts: dict[str, Part]) -> None:
    parts["database"].error = Unavailable("the database is at revision none")
    parts["storage"].error = RuntimeError("broken")
    with pytest.raises(Unavailable, match=r"the database is at revision none; RuntimeError: broken"):
        asyncio.run(readiness_of(parts).require())


def test_a_part_that_does_not_answer_holds_nobody_up_and_is_asked_once(parts: dict[str, Part]) -> None:
    parts["storage"].goes_on.clear()
    readiness = readiness_of(parts)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"^the storage does not answer"):
            asyncio.run(readiness.require())
    # The second and the third were not made to wait for what is late already.
    assert time.monotonic() - began < 2
    assert parts["storage"].looks == 1
    parts["storage"].goes_on.set()
    deadline = time.monotonic() + 10
    while True:
        try:
            asyncio.run(readiness.require())
            break
        except Unavailable:
            assert time.monotonic() < deadline


def in_process(folder: Path) -> AbstractContextManager[World]:
    return registries.embedded(folder)


def served(folder: Path) -> AbstractContextManager[World]:
    return registries.served(folder)


@pytest.mark.slow
@pytest.mark.parametrize("opened", [in_process, served])
def test_neither_the_application_nor_its_database_is_kept(
    opened: Callable[[Path], AbstractContextManager[World]], tmp_path: Path
) -> None:
    kept: list[Callable[[], object]] = []
    for n in range(4):
        with opened(tmp_path / str(n)) as world:
            for path in (HEALTHZ, READYZ, "/openapi.json", "/api/v1/bases"):
                assert world.http.get(path).status_code == 200
            kept += [weakref.ref(world.app), weakref.ref(world.services.db)]
        del world
        # What the first imports is kept out of later collections (`support.garbage`), and so may be the first itself.
        gc.collect()
    # A loop that has ended may hold the last one until another runs.
    assert [found() for found in kept[2:-2]] == [None] * 4
