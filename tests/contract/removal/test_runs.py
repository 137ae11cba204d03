"""Collections that run beside publishers, and beside each other."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.removal.helpers import (
    WITHOUT_GRACE,
    age,
    file_of,
    is_stored,
    nothing,
    publication,
    put_stray,
    same,
)
from sqlalchemy import select
from support.adapters import save_adapter
from support.people import SEEDS
from support.registries import World
from support.schemas import rows_of
from support.soak import scale
from support.stored import lose
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from registry.access.keys import KeyedRequest
from registry.artifacts.models import Upload
from registry.catalog.models import Version as VersionRow
from registry.catalog.publishing import recording
from registry.catalog.versions.lifecycle import VersionState
from registry.db.types import utc_now
from registry.errors import Unavailable
from registry.principal import SYSTEM, Role
from registry.storage import FolderStorage
from sdk.client import Client
from sdk.errors import InvalidInput
from sdk.errors import Unavailable as ClientUnavailable
from sdk.objects import Version


def put_partial(world: World, *, hours: float) -> Path:
    """Leave what an interrupted upload leaves in a folder."""
    path = world.services.artifacts.storage.path_of("ab" * 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.write_bytes(b"half")
    then = time.time() - hours * 3600
    os.utime(partial, (then, then))
    return partial


#: What a transaction is told that has waited too long for others, and with it to come again. A machine with much else to
#: do lets it; that the database were not there is never an answer.
WAITED = ("the database is busy with another program's changes;", "the database took too long for this;")


def has_waited(error: BaseException) -> bool:
    return isinstance(error, ClientUnavailable | Unavailable) and str(error).startswith(WAITED)


patiently = Retrying(
    retry=retry_if_exception(has_waited),
    stop=stop_after_attempt(5),
    wait=wait_fixed(1),
    reraise=True,
)


class TestRuns:
    def test_a_dry_run_changes_nothing_and_says_what_the_real_one_does(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        versions = [push() for _ in range(4)]
        push("b")
        admin.retention.set("a", keep_last=2)
        admin.versions.delete("b@v1")
        put_stray(world, b"stray")
        lose(world.services.artifacts.storage, file_of(versions[3]))
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "a"}\n')
        world.writer.datasets.remove(world.writer.datasets.add(rows).digest)
        # A publication whose publisher died, an expired session and kept answers.
        body = publication(world.writer, save_adapter(tmp_path / "dead", next(SEEDS)), "dead")
        world.announce(body, SYSTEM)
        age(world, VersionRow, 25, VersionRow.state == VersionState.PENDING)
        age(world, Upload, 1, Upload.id == body.upload, column="expires_at")
        with world.services.db.write() as session:
            for name, days in (("old", 8), ("young", 6)):
                at = utc_now() - timedelta(days=days)
                session.add(KeyedRequest(owner="o", key=name, request_digest="", created_at=at))
        if isinstance(world.services.artifacts.storage, FolderStorage):
            put_partial(world, hours=25)
            put_partial(world, hours=0.5)

        before = rows_of(world.services.db), list(world.services.artifacts.storage.list())
        planned = admin.retention.gc(dry_run=True, grace_hours=0)
        assert (rows_of(world.services.db), list(world.services.artifacts.storage.list())) == before
        assert planned == admin.retention.gc(dry_run=True, grace_hours=0)
        done = admin.retention.gc(dry_run=False, grace_hours=0)
        same(planned, done)
        partials = 1 if isinstance(world.services.artifacts.storage, FolderStorage) else 0
        assert done.model_dump(exclude={"freed_bytes", "blobs_without_row", "rows_without_blob"}) == {
            "dry_run": False,
            "retired_versions": ["a@v1", "a@v2"],
            "failed_pending": 1,
            "manifests": 3,
            # Weights of three versions, and a dataset; what was sent and never verified is a stray.
            "blobs": 4,
            "partial_uploads": partials,
            "expired_uploads": 1,
            "keyed_requests": 1,
        }
        assert done.blobs_without_row.count == 2
        assert done.rows_without_blob.versions == ["a@v4"]
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))

        _, first = admin.audit(action="gc.run")
        assert (first.after["blobs"], first.after["retired_versions"]) == (4, 2)
        assert (first.namespace, first.subject) == ("*", "registry")

    def test_a_publication_whose_publisher_died_can_be_made_again(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        folder = save_adapter(tmp_path / "dead", next(SEEDS))
        body = publication(world.writer, folder, "a")
        world.announce(body, world.principal(Role.WRITER))
        assert admin.retention.gc(dry_run=False, grace_hours=0).failed_pending == 0
        age(world, VersionRow, 25)
        assert admin.retention.gc(dry_run=False, grace_hours=0).failed_pending == 1
        with world.services.db.read() as session:
            row = session.scalars(select(VersionRow)).one()
            assert (row.state, row.number) == ("failed", None)
            assert "push it again" in (row.refusal or "")
        assert world.writer.push(folder, "a", base="tiny").ref == "a@v1"

    def test_what_is_asked_must_be_said(self, world: World) -> None:
        for body in ({}, {"grace_hours": 1}, {"dry_run": "yes"}, {"dry_run": True, "grace_hours": 8761}):
            assert world.http.post("/api/v1/gc", json=body).status_code == 422
        with pytest.raises(InvalidInput):
            world.writer.retention.gc(dry_run=True, grace_hours=-1)

    def test_a_deletion_waits_for_who_publishes_the_same_bytes_elsewhere(
        self, world: World, admin: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = save_adapter(tmp_path / "same", next(SEEDS))
        first = admin.push(folder, "was-first", base="tiny")
        recorded, may_go_on = threading.Event(), threading.Event()
        charge = recording._charge

        def slowly(*given: Any) -> None:
            recorded.set()
            assert may_go_on.wait(30)
            charge(*given)

        monkeypatch.setattr(recording, "_charge", slowly)
        with ThreadPoolExecutor() as pool:
            publishing = pool.submit(admin.push, folder, "comes-second", base="tiny")
            assert recorded.wait(30)
            deleting = pool.submit(admin.versions.delete, first.ref)
            # Time enough for a deletion that does not wait.
            wait([deleting], timeout=1)
            may_go_on.set()
            second = publishing.result()
            deleting.result()
        admin.cache.root = tmp_path / "another-cache"
        admin.pull(second.ref, tmp_path / "pulled")

    @pytest.mark.slow
    def test_publishers_race_with_collections_and_no_version_misses_a_byte(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        rounds, publishers = scale(400, share=40), 3
        folders = [save_adapter(tmp_path / f"shared-{number}", next(SEEDS)) for number in range(2)]
        done = threading.Event()

        def publish_often(me: int) -> None:
            client = world.client(Role.ADMIN)
            try:
                for number in range(rounds):
                    version = patiently(client.push, folders[(me + number) % 2], f"racer-{me}", base="tiny")
                    lost = [file.path for file in version.info.files if not is_stored(world, file.sha256)]
                    assert not lost, f"{version.ref} misses {lost}"
                    patiently(client.versions.delete, version.ref)
                patiently(client.push, folders[me % 2], f"racer-{me}", base="tiny")
            finally:
                client.close()

        def collect_often() -> None:
            while not done.is_set():
                patiently(world.services.removal.collect, request=WITHOUT_GRACE, who=SYSTEM)

        with ThreadPoolExecutor() as pool:
            collecting = [pool.submit(collect_often) for _ in range(2)]
            publishing = [pool.submit(publish_often, me) for me in range(publishers)]
            wait(publishing)
            done.set()
        for future in (*publishing, *collecting):
            future.result()
        report = admin.retention.gc(dry_run=False, grace_hours=0)
        assert report.rows_without_blob.count == 0
        with world.services.db.read() as session:
            ready = session.scalars(select(VersionRow).where(VersionRow.state == VersionState.READY)).all()
        assert len(ready) == publishers
        admin.cache.root = tmp_path / "another-cache"
        for row in ready:
            admin.pull(f"{row.adapter.name}@v{row.number}", tmp_path / f"pulled-{row.adapter.name}")
