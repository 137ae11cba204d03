"""Nothing is asked of the store while a transaction is open: a store that hangs would hold up all who wait for its locks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import registries
from support.adapters import base_registration, save_adapter
from support.calls import publication
from support.fixtures import S3Place
from support.registries import World
from support.small import write_adapter, write_base
from support.stored import names_of

from registry.db.database import Database
from registry.principal import Role
from registry.storage import FolderStorage, open_storage
from sdk.errors import VerificationFailed
from sdk.schemas.catalog import Published

#: What goes over the network where the store is one. Locations are signed here.
CALLS = ("begin_parts", "sent_parts", "join_parts", "stat", "open", "put", "delete", "list", "sweep", "check")


@pytest.fixture(params=["embedded", "http_postgres_s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "embedded":
        with registries.embedded(tmp_path / "home") as world:
            yield world
        return
    s3: S3Place = request.getfixturevalue("s3")
    database_url: str = request.getfixturevalue("postgres_database")
    storage = open_storage(s3.url, s3=s3.options, part_bytes=5 * 1024**2)
    with registries.served(
        tmp_path / "served", database_url=database_url, storage_url=s3.url, storage=storage
    ) as world:
        yield world


@pytest.fixture
def calls(world: World, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Each call to the store: its name, and whether the thread that made it had a transaction open."""
    seen: list[tuple[str, bool]] = []
    open_now = threading.local()

    def count(kind: str) -> None:
        begin = getattr(Database, kind)

        @contextmanager
        def counting(self: Database, **given: Any) -> Iterator[Any]:
            with begin(self, **given) as session:
                open_now.count = getattr(open_now, "count", 0) + 1
                try:
                    yield session
                finally:
                    open_now.count -= 1

        monkeypatch.setattr(Database, kind, counting)

    def watch(name: str) -> None:
        call = getattr(type(world.services.artifacts.storage), name)

        def watched(*given: Any, **named: Any) -> Any:
            seen.append((name, getattr(open_now, "count", 0) > 0))
            return call(*given, **named)

        monkeypatch.setattr(type(world.services.artifacts.storage), name, watched)

    for kind in ("read", "write"):
        count(kind)
    for name in CALLS:
        watch(name)
    return seen


def test_no_transaction_is_open_while_the_store_is_asked(
    world: World, calls: list[tuple[str, bool]], tmp_path: Path
) -> None:
    writer, admin = world.writer, world.client(Role.ADMIN)
    storage = world.services.artifacts.storage
    admin.bases.register(base_registration())
    writer.push(save_adapter(tmp_path / "a", 1), "a", base="tiny")
    # The same bytes from somebody else, and again after they were lost.
    admin.push(save_adapter(tmp_path / "b", 1), "b", base="tiny")
    for name in names_of(storage, admin.get("b").info.files[1].sha256):
        storage.delete(name)
    admin.push(save_adapter(tmp_path / "c", 1), "c", base="tiny")
    _push_other_bytes(world, tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    data = writer.datasets.add(rows, namespace="-" if world.has_roles else None).digest
    # In parts, where there are some.
    (tmp_path / "large.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 200_000)
    writer.datasets.add(tmp_path / "large.jsonl", namespace="-" if world.has_roles else None)
    writer.push(write_adapter(tmp_path / "d"), "d", base=write_base(tmp_path / "base"))
    admin.versions.delete("a@v1")
    admin.datasets.remove(data)
    admin.retention.gc(dry_run=True, grace_hours=0)
    assert admin.retention.gc(dry_run=False, grace_hours=0).blobs > 0
    admin.close()
    assert {name for name, _ in calls} >= {"stat", "open", "delete", "list", "sweep"}
    assert {name for name, within in calls if within} == set()


def _push_other_bytes(world: World, tmp_path: Path) -> None:
    """Publish files of which one was changed on its way: what was sent is thrown away."""
    body = publication(world.writer, save_adapter(tmp_path / "other", 2), "other")
    storage = world.services.artifacts.storage
    (name,) = names_of(storage, body.manifest.files[1].sha256)
    if isinstance(storage, FolderStorage):
        storage.path_of(name).write_bytes(b"other bytes")
    else:
        storage._client.put_object(**storage._at(name), Body=b"other bytes")
    with pytest.raises(VerificationFailed):
        world.writer.call("POST", "/versions", Published, body=body)
