"""People of a namespace and pages that they read; and a namespace whose texts are attacks, with all of its pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from contract.pages.hostile import HostilePlace
from contract.promotion.scene import Scene
from support import registries
from support.adapters import base_registration
from support.crawling import ReadPage, crawl
from support.page_readers import PageReader, signed_in
from support.registries import World

from registry.principal import Role

Opening = Callable[..., PageReader]
#: For tests of what pages make of what services read: these have tests of their own over both databases.
ONE_DATABASE = pytest.mark.parametrize("people", ["sqlite"], indirect=True)


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    """A namespace with people in it."""
    return Scene(people, tmp_path / "scene")


@pytest.fixture
def opening(people: World, scene: Scene) -> Iterator[Opening]:
    """Return a function that signs somebody of the scene in, or a reader of its namespace."""
    with ExitStack() as stack:

        def sign_in(name: str = "reader") -> PageReader:
            if name == "reader" and "reader" not in scene.secrets:
                scene.hire("reader", Role.READER)
            return PageReader(stack.enter_context(signed_in(people.url, scene.secrets[name])))

        yield sign_in


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostilePlace]:
    folder = tmp_path_factory.mktemp("hostile")
    with registries.served(folder) as world:
        world.admin.bases.register(base_registration())
        yield HostilePlace(world, folder / "scene")


@pytest.fixture(scope="session")
def read(place: HostilePlace) -> list[ReadPage]:
    """All pages that the namespace's admin can come to."""
    with signed_in(place.scene.world.url, place.secret) as client:
        return list(crawl(client))
