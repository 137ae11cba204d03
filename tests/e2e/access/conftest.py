"""Fixtures of these tests. Aliases and people at the command line, against a real server: what is printed, what is
said, how it exits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.access.helpers import NAME, Desk
from support.adapters import base_registration, save_adapter
from support.registries import World, served

from registry.principal import SYSTEM, Role
from sdk.client import Client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("people-cli")
    with served(folder) as found:
        found.admin.bases.register(base_registration())
        yield found


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[Desk]:
    made = world.services.tokens.create(name="ops", grants={"*": Role.ADMIN}, replace=True, who=SYSTEM)
    client = Client(world.url, made.secret, cache=tmp_path / "other-cache")
    yield Desk(world, tmp_path, made.secret, client)
    client.close()


@pytest.fixture(scope="module")
def versions(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter with three versions."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed in (1, 2, 3):
        world.writer.push(save_adapter(folder / str(seed), seed), NAME, base="tiny", tags={"language": "python"})
    return NAME
