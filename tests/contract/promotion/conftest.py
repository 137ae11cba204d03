"""Registries that all tests of promotion share, since opening one takes longer than most of the tests.

Each test has a namespace of its own. They run over SQLite, and those that are about locks, times, NULLs or what a database
does with JSON also over PostgreSQL: `@ON_BOTH`, of `contract.promotion.databases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from contract.promotion.judged import add_rows, new_rows
from contract.promotion.scene import Scene
from support import registries
from support.adapters import base_registration
from support.databases import new_database
from support.registries import World

Opened = Callable[[str, bool], World]


@pytest.fixture(scope="session")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Return a function that opens a registry over a kind of database, behind HTTP or in this process, once for all tests."""
    there: dict[tuple[str, bool], World] = {}
    with ExitStack() as stack:

        def world_of(kind: str, served: bool) -> World:
            if (kind, served) not in there:
                folder = tmp_path_factory.mktemp(kind)
                url = stack.enter_context(new_database(kind, folder, request))
                opening = (
                    registries.served(folder / "home", database_url=url)
                    if served
                    else registries.embedded(folder / "home", database_url=url)
                )
                there[kind, served] = stack.enter_context(opening)
                there[kind, served].admin.bases.register(base_registration())
            return there[kind, served]

        yield world_of


@pytest.fixture(scope="module")
def people(request: pytest.FixtureRequest, opened: Opened) -> World:
    """A registry with tokens, behind HTTP."""
    return opened(getattr(request, "param", "sqlite"), True)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, opened: Opened) -> World:
    """A registry in this process."""
    return opened(getattr(request, "param", "sqlite"), False)


@pytest.fixture
def scene(world: World, tmp_path: Path) -> Scene:
    """A namespace with people in it."""
    return Scene(world, tmp_path / "scene")


@pytest.fixture
def data(scene: Scene) -> str:
    """Rows that no other test has."""
    return add_rows(scene, new_rows())
