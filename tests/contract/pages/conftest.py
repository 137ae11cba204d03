"""A registry with one namespace whose texts are attacks, and all of its pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from contract.pages.hostile import HostilePlace
from support import registries
from support.adapters import base_registration
from support.crawling import ReadPage, crawl, signed_in


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostilePlace]:
    folder = tmp_path_factory.mktemp("hostile")
    with registries.served(folder) as world:
        world.admin.bases.register(base_registration())
        yield HostilePlace(world, folder / "scene")


@pytest.fixture(scope="session")
def read(place: HostilePlace) -> list[ReadPage]:
    """All pages that the namespace's admin can come to."""
    with closing(signed_in(place.scene.world.url, place.secret)) as client:
        return list(crawl(client))
