"""Removal goes in two steps, and whatever happens between them loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract.removal.helpers import (
    CONFIG,
    WEIGHTS,
    WITHOUT_GRACE,
    age,
    file_of,
    is_stored,
    nothing,
    publication,
    publish,
    same,
)
from sqlalchemy import select
from support.adapters import base_registration, save_adapter
from support.calls import announce
from support.people import SEEDS
from support.registries import World
from support.stored import names_of

from registry.artifacts.blob_check import read_blob
from registry.artifacts.models import Blob, ManifestAccess, ManifestRow, Upload, UploadBlob
from registry.db.types import utc_now
from registry.principal import SYSTEM, Role
from registry.removal.collect import Collection
from registry.removal.garbage import Rules
from sdk.client import Client
from sdk.errors import VerificationFailed
from sdk.objects import Version
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import Publication
from sdk.schemas.removal import GcRequest


def rules(world: World, **changed: Any) -> Rules:
    """The rules of a run without grace, for its single steps."""
    now = utc_now()
    given = {"now": now, "given_up_before": now, "merged_before": None, "dry_run": False} | changed
    return Rules(**given)


def collection(world: World) -> Collection:
    return Collection(world.services.db, world.services.artifacts.storage, rules(world))


class TestSteps:
    """A run that is killed between its steps, and who comes in between."""

    def test_a_kill_between_the_steps_leaves_work_for_the_next_run(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        version = push()
        weights = file_of(version)
        push()
        admin.versions.delete("a@v1")
        collection(world).retire_manifests()
        assert collection(world).give_up([weights]) == [weights]
        assert is_stored(world, weights)
        planned = admin.retention.gc(dry_run=True, grace_hours=0)
        assert (planned.blobs, planned.freed_bytes) == (1, version.info.files[1].size_bytes)
        same(planned, admin.retention.gc(dry_run=False, grace_hours=0))
        assert not is_stored(world, weights)
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))

    def test_bytes_that_are_sent_between_the_steps_stay(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.versions.delete("a@v1")
        collection(world).retire_manifests()
        run = collection(world)
        assert run.give_up([weights]) == [weights]
        # The uploader is told to send them, though the bytes are still there, and nothing takes them away any more.
        folder = save_adapter(tmp_path / "again", seed)
        assert [put.sha256 for put in announce(world.writer, folder / WEIGHTS).put] == [weights]
        assert run.take_away([weights]) == []
        assert collection(world).take_away([weights]) == []
        assert admin.retention.gc(dry_run=False, grace_hours=0).freed_bytes < (folder / WEIGHTS).stat().st_size
        assert is_stored(world, weights)
        assert world.writer.push(folder, "a", base="tiny").ref == "a@v2"
        assert is_stored(world, weights)

    def test_a_version_that_is_pushed_between_the_steps_is_whole(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.versions.delete("a@v1")
        run = collection(world)
        run.retire_manifests()
        assert run.give_up([weights]) == [weights]
        assert push(seed=seed).ref == "a@v2"
        assert run.take_away([weights]) == []
        assert is_stored(world, weights)
        # What was sent again lies under a name of its own, and the bytes that were given up are nobody's.
        report = admin.retention.gc(dry_run=False, grace_hours=0)
        assert (report.blobs, report.blobs_without_row.count, report.rows_without_blob.count) == (0, 1, 0)
        assert len(names_of(world.services.artifacts.storage, weights)) == 1

    def test_a_session_that_counts_on_stored_bytes_keeps_them(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.versions.delete("a@v1")
        folder = save_adapter(tmp_path / "again", seed)
        # Nothing is to be sent: they are stored. A run that saw them before the session began looks once more.
        body = publication(world.writer, folder, "b")
        collection(world).retire_manifests()
        assert collection(world).give_up([weights]) == []
        assert admin.retention.gc(dry_run=False, grace_hours=0).blobs == 0
        assert publish(world.writer, body).version.ref == "b@v1"
        assert is_stored(world, weights)

    def test_a_session_that_has_ended_is_no_way_to_publish_what_was_collected(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        folder = save_adapter(tmp_path / "once", next(SEEDS))
        body = publication(world.writer, folder, "a")
        publish(world.writer, body)
        admin.versions.delete("a@v1")
        # Made into a version, the session holds nothing any more: without grace the bytes go at once.
        assert admin.retention.gc(dry_run=False, grace_hours=0).blobs == 2
        with pytest.raises(VerificationFailed, match="push again"):
            publish(world.writer, body)
        assert world.writer.push(folder, "a", base="tiny").ref == "a@v2"

    def test_bytes_that_are_collected_while_they_are_verified_make_no_version(
        self, world: World, push: Callable[..., Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = publication(world.writer, save_adapter(tmp_path / "slow", next(SEEDS)), "a")

        def slowly(*given: Any) -> Any:
            found = read_blob(*given)
            # Meanwhile the session's time is over, and a collection passes.
            age(world, Upload, 1, column="expires_at")
            world.services.removal.collect(request=WITHOUT_GRACE, who=SYSTEM)
            return found

        monkeypatch.setattr("registry.artifacts.service.read_blob", slowly)
        with pytest.raises(VerificationFailed, match="removed while it was being verified; push again"):
            publish(world.writer, body)
        monkeypatch.undo()
        assert push().ref == "a@v1"

    def test_nobody_waits_for_a_store_that_removes_and_what_is_sent_meanwhile_is_not_hit(
        self,
        world: World,
        admin: Client,
        push: Callable[..., Version],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        (old,) = names_of(world.services.artifacts.storage, weights)
        admin.versions.delete("a@v1")
        collection(world).retire_manifests()
        assert collection(world).give_up([weights]) == [weights]
        removing, go_on = threading.Event(), threading.Event()
        kind = type(world.services.artifacts.storage)
        delete = kind.delete

        def slowly(self: Any, name: str) -> None:
            if name == old:
                removing.set()
                assert go_on.wait(30)
            delete(self, name)

        monkeypatch.setattr(kind, "delete", slowly)
        with ThreadPoolExecutor() as pool:
            taking = pool.submit(collection(world).take_away, [weights])
            assert removing.wait(10)
            # The same bytes and others are published, and another collection passes, while the store takes its time.
            assert push(seed=seed).ref == "a@v2"
            assert push().ref == "a@v3"
            assert world.services.removal.collect(request=GcRequest(dry_run=False), who=SYSTEM).blobs == 0
            assert not taking.done()
            go_on.set()
            assert taking.result() == [weights]
        (new,) = names_of(world.services.artifacts.storage, weights)
        assert new != old
        admin.cache.root = tmp_path / "another-cache"
        admin.pull("a@v2", tmp_path / "pulled")

    def test_a_name_that_was_given_up_is_announced_and_filled_by_nobody_again(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        folder = save_adapter(tmp_path / "once", next(SEEDS))
        body = publication(world.writer, folder, "a")
        publish(world.writer, body)
        admin.versions.delete("a@v1")
        collection(world).retire_manifests()
        weights = hash_file(folder / WEIGHTS)[0]
        (old,) = names_of(world.services.artifacts.storage, weights)
        assert collection(world).give_up([weights]) == [weights]
        # The session that has sent them is over, but not forgotten; the bytes are still there.
        with pytest.raises(VerificationFailed, match="push again"):
            publish(world.writer, body)
        with world.services.db.read() as session:
            assert session.scalars(select(UploadBlob).where(UploadBlob.stored_as == old)).all() == []
            assert session.get_one(Blob, weights).collected_at is not None

    def test_nothing_is_removed_while_it_is_given_a_name(self, http_postgres_s3: World, tmp_path: Path) -> None:
        # SQLite has one writer at a time, so there it could not be tried. The new version has no session that would
        # hold its files, and other ones than the version that goes.
        world = http_postgres_s3
        world.admin.bases.register(base_registration())
        first, other = (
            world.writer.push(save_adapter(tmp_path / name, next(SEEDS)), name, base="tiny") for name in ("a", "b")
        )
        whole = first.info.manifest
        extra = other.info.files[0].model_copy(update={"path": "README.md"})
        manifest = whole.model_copy(update={"files": sorted([*whole.files, extra], key=lambda file: file.path)})
        body = Publication(adapter="c", manifest=manifest, lora=first.info.lora)
        with closing(world.client(Role.ADMIN)) as admin, ThreadPoolExecutor() as pool:
            who = world.principal(Role.ADMIN)
            with world.services.publisher.publishing(publication=body, who=who) as (_, published):
                admin.versions.delete("a@v1")
                collecting = pool.submit(world.services.removal.collect, request=WITHOUT_GRACE, who=SYSTEM)
                assert not wait([collecting], 0.5).done
            assert published.version.number == 1
            report = collecting.result()
        assert (report.manifests, report.blobs) == (1, 0)
        assert is_stored(world, file_of(first))

    def test_a_manifest_that_is_retired_while_it_is_published_again_is_taken_back(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        first = push(seed=seed)
        admin.versions.delete("a@v1")
        body = publication(world.writer, save_adapter(tmp_path / "again", seed), "b")
        collection(world).retire_manifests()
        with world.services.db.read() as session:
            assert session.get_one(ManifestRow, first.digest).collected_at is not None
            assert session.get(ManifestAccess, (first.digest, "-")) is None
        assert publish(world.writer, body).version.digest == first.digest
        assert [file.path for file in world.writer.get("b@v1").info.files] == [CONFIG, WEIGHTS]
        assert len(world.writer.versions.locate(first.digest)) == 2
        assert admin.retention.gc(dry_run=False, grace_hours=0).manifests == 0
