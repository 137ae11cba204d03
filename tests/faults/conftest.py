"""Registries behind the fault proxy, one of each kind for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.places import Place, over_folder, over_seaweed

from sdk.stack.seaweed import SeaweedServer


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory, s3_server: SeaweedServer) -> Iterator[Place]:
    with over_seaweed(tmp_path_factory.mktemp("seaweed"), s3_server) as place:
        yield place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with over_folder(tmp_path_factory.mktemp("folder")) as place:
        yield place
