"""Over which databases a test of promotion runs: over SQLite, unless it says more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from support import registries
from support.adapters import base_registration
from support.databases import KINDS, new_database
from support.registries import World

#: For what depends on locks, times, NULLs or JSON in the database: a registry with tokens, or one in this process.
ON_BOTH = pytest.mark.parametrize("people", KINDS, indirect=True, scope="module")
IN_PROCESS_ON_BOTH = pytest.mark.parametrize("world", KINDS, indirect=True, scope="module")


@contextmanager
def opened_alone(request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> Iterator[World]:
    """A registry in this process over the database that a fixture's parameter names, or SQLite."""
    kind = getattr(request, "param", "sqlite")
    folder = folders.mktemp(kind)
    with ExitStack() as stack:
        url = stack.enter_context(new_database(kind, folder, request))
        world = stack.enter_context(registries.embedded(folder / "home", database_url=url))
        world.admin.bases.register(base_registration())
        yield world
