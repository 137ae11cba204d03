"""A browser, a registry with something to see, and readers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support import registries
from support.browsing import Reader, browser
from support.registries import World

from registry.principal import Role


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all files here, and none afterwards: beside Playwright's loop no test can begin one of its own."""
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry over HTTP with tokens."""
    with registries.served(tmp_path_factory.mktemp("pages")) as world:
        yield world


@pytest.fixture
def reading(chromium: Browser, seen: World) -> Iterator[Callable[..., Reader]]:
    """Return a function that opens a reader who has signed in with a new token of a role."""
    opened: list[Reader] = []

    def open_reader(
        role: Role = Role.READER,
        *,
        namespace: str = "*",
        to: str = "/ui/adapters",
        width: int = 1440,
        dark: bool = False,
        script: bool = True,
    ) -> Reader:
        reader = Reader(chromium, seen.url, width=width, dark=dark, script=script)
        opened.append(reader)
        reader.enter(seen.token(role, namespace=namespace), to)
        return reader

    yield open_reader
    for reader in opened:
        reader.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where tests leave pictures of pages, for docs and for eyes."""
    folder = Path(__file__).parents[3] / "build" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
