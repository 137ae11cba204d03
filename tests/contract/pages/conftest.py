"""People of a namespace, and pages that they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from contract.promotion.scene import Scene
from support.page_readers import PageReader, reading_pages
from support.registries import World

from registry.principal import Role

Opening = Callable[..., PageReader]


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
            return stack.enter_context(reading_pages(people.url, scene.secrets[name]))

        yield sign_in
