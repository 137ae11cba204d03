"""Fixtures of these tests. Every storage keeps the one contract: a folder, a folder behind HTTP, and S3 (a real
SeaweedFS).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from contract.storage.helpers import KEY, World, open_s3, served
from fastapi import FastAPI
from support.fixtures import S3Place

from registry.storage import (
    FolderStorage,
    Storage,
    open_storage,
)
from registry.storage.views import blob_routes


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[World]:
    root = tmp_path / "sto rage"

    def reopen(expires_in_s: int) -> Storage:
        return open_storage(root.as_uri(), expires_in_s=expires_in_s)

    with closing(reopen(900)) as storage:
        yield World(storage, reopen)


@pytest.fixture
def folder_http(tmp_path: Path) -> Iterator[World]:
    app = FastAPI()
    with served(app) as url:

        def reopen(expires_in_s: int) -> FolderStorage:
            return FolderStorage(tmp_path / "storage", public_url=url, signing_key=KEY, expires_in_s=expires_in_s)

        storage = reopen(900)
        app.include_router(blob_routes(storage))
        yield World(storage, reopen)


@pytest.fixture
def seaweed(s3: S3Place) -> Iterator[World]:
    opened: list[Storage] = []

    def reopen(expires_in_s: int) -> Storage:
        opened.append(open_s3(s3, expires_in_s=expires_in_s))
        return opened[-1]

    yield World(reopen(900), reopen)
    for storage in opened:
        storage.close()


@pytest.fixture(params=["folder", "folder_http", "seaweed"])
def world(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["folder_http", "seaweed"])
def signed(request: pytest.FixtureRequest) -> World:
    """Storages whose locations are signed URLs. A plain folder's are paths, and whoever can use one needs no permission."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def storage(world: World) -> Storage:
    return world.storage
