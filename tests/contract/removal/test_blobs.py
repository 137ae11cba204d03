"""Bytes that nothing names any more, and those that something does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from contract.removal.helpers import CONFIG, WEIGHTS, age, file_of, is_stored, nothing, put_stray, same
from sqlalchemy import select
from support.adapters import digest, lora_tensors, save_adapter
from support.calls import announce
from support.fixtures import Limits
from support.people import SEEDS
from support.registries import World
from support.schemas import rows_of
from support.small import write_base
from support.stored import lose

from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.models import Blob, ManifestAccess, ManifestRow, Upload, UploadBlob
from registry.artifacts.uploads import finish_upload
from registry.catalog.models import Version as VersionRow
from registry.datasets.models import Dataset
from registry.db.types import utc_now
from registry.jobs.models import Job
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import NotFound, VerificationFailed
from sdk.objects import Version
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.manifest import Manifest, ManifestFile


def stored_bytes(world: World) -> int:
    storage = world.services.artifacts.storage
    return sum(stat.size_bytes for stat in map(storage.stat, storage.list()) if stat is not None)


def send(world: World, path: Path) -> str:
    """Announce a file, and let it arrive where its session sends it."""
    (put,) = announce(world.writer, path).put
    with world.services.db.read() as session:
        name = session.scalars(select(UploadBlob.stored_as).where(UploadBlob.sha256 == put.sha256)).one()
    world.services.artifacts.storage.put(name, put.size_bytes, iter([path.read_bytes()]))
    return put.sha256


class TestBlobs:
    def test_what_two_versions_share_goes_with_the_last(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        first, twin, other = push(seed=seed), push("b", seed=seed), push()
        config, weights = file_of(first, CONFIG), file_of(first)
        assert (first.digest, file_of(other, CONFIG)) == (twin.digest, config)
        admin.versions.delete("a@v1")
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
        admin.versions.delete("b@v1")
        report = admin.retention.gc(dry_run=False, grace_hours=0)
        assert (report.manifests, report.blobs, report.freed_bytes) == (1, 1, first.info.files[1].size_bytes)
        assert (is_stored(world, weights), is_stored(world, config)) == (False, True)
        admin.cache.root = tmp_path / "another-cache"
        assert admin.pull(other.ref, tmp_path / "pulled").is_dir()
        with pytest.raises(NotFound):
            admin.versions.locate(first.digest)

    def test_the_grace_period_runs_from_the_deletion(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        weights = file_of(push())
        admin.versions.delete("a@v1")
        for model in (Blob, ManifestRow):
            age(world, model, 1000)
        age(world, VersionRow, 23, column="moved_at")
        assert nothing(admin.retention.gc(dry_run=False))
        age(world, VersionRow, 25, column="moved_at")
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=26))
        same(admin.retention.gc(dry_run=True), admin.retention.gc(dry_run=False))
        assert not is_stored(world, weights)

    def test_what_was_recorded_just_now_is_kept_however_long_ago_its_version_was_deleted(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        # A clock that was set back makes a deletion look older than what it deleted.
        push()
        admin.versions.delete("a@v1")
        age(world, Blob, 1000)
        age(world, VersionRow, 1000, column="moved_at")
        assert nothing(admin.retention.gc(dry_run=False))
        age(world, ManifestRow, 25)
        assert admin.retention.gc(dry_run=False).manifests == 1

    def test_bytes_that_were_never_published_are_kept_for_their_session_and_the_grace_period(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        zero = {key: value * ("lora_A" in key) for key, value in lora_tensors(next(SEEDS)).items()}
        folder = save_adapter(tmp_path / "bad", tensors=zero)
        with pytest.raises(VerificationFailed, match="changes nothing"):
            world.writer.push(folder, "bad", base="tiny")
        weights, _ = hash_file(folder / WEIGHTS)
        size = stored_bytes(world)
        age(world, Blob, 25)
        # The session may still publish them.
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
        age(world, Upload, 1, column="expires_at")
        assert admin.retention.gc(dry_run=True, grace_hours=26).blobs == 0
        planned = admin.retention.gc(dry_run=True, grace_hours=24)
        assert (planned.blobs, planned.freed_bytes) == (2, size)
        assert planned.expired_uploads == 1
        same(planned, admin.retention.gc(dry_run=False, grace_hours=24))
        assert not is_stored(world, weights)

    def test_datasets_hold_their_rows(self, world: World, admin: Client, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"prompt": "a", "completion": "b"}\n')
        data = world.writer.datasets.add(path)
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
        world.writer.datasets.remove("rows.jsonl")
        age(world, Blob, 1000)
        age(world, Dataset, 23, column="removed_at")
        assert nothing(admin.retention.gc(dry_run=False))
        # Added again meanwhile, its time begins anew.
        assert world.writer.datasets.add(path).digest == data.digest
        age(world, Upload, 1, column="expires_at")
        assert admin.retention.gc(dry_run=False, grace_hours=0).blobs == 0
        world.writer.datasets.remove(data.digest)
        planned = admin.retention.gc(dry_run=True, grace_hours=0)
        assert (planned.blobs, planned.freed_bytes) == (1, data.size_bytes)
        same(planned, admin.retention.gc(dry_run=False, grace_hours=0))
        assert not is_stored(world, data.digest)
        assert world.writer.datasets.add(path).digest == data.digest
        assert is_stored(world, data.digest)

    def test_bases_hold_their_files(self, world: World, admin: Client, tmp_path: Path) -> None:
        folder = write_base(tmp_path / "base", value=0.875)
        assert world.admin.bases.add(folder, upload=True).uploaded
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
        assert is_stored(world, hash_file(folder / "model.safetensors")[0])
        # Taken away by every namespace that had it, its files go.
        admin.bases.remove("base")
        assert admin.retention.gc(dry_run=False, grace_hours=0).blobs == 3
        assert not is_stored(world, hash_file(folder / "model.safetensors")[0])

    def test_merged_models_are_kept_until_somebody_says_for_how_long(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        kept = {}
        for name, days in (("old", 31), ("again", 31), ("young", 29)):
            path = tmp_path / name
            path.write_bytes(name.encode())
            sha256, size = hash_file(path)
            files = [ManifestFile(path="model.safetensors", size_bytes=size, sha256=sha256)]
            manifest = Manifest(kind="merged", base_fingerprint=digest("tiny: base"), files=files)
            upload = world.writer.uploader.upload({sha256: path}, "uploading")
            world.services.artifacts.verify(upload=upload, blobs=blobs_of(manifest), who=world.principal(Role.WRITER))
            with world.services.db.write() as session:
                record_manifest(session, manifest, namespace="-")
                finish_upload(session, upload)
                # One of them was made again by a job of yesterday.
                for at in (days, *([1] if name == "again" else [])):
                    job = Job(
                        id=uuid.uuid4().hex,
                        kind="merge",
                        state="succeeded",
                        subject="a@v1",
                        request={},
                        request_digest="",
                        result={"digest": manifest.digest},
                        created_by="t",
                        finished_at=utc_now() - timedelta(days=at),
                    )
                    session.add(job)
            age(world, ManifestRow, days * 24, ManifestRow.digest == manifest.digest)
            age(world, Blob, days * 24)
            kept[name] = sha256
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
        planned = admin.retention.gc(dry_run=True, keep_merged_days=30)
        assert (planned.manifests, planned.blobs) == (1, 1)
        same(planned, admin.retention.gc(dry_run=False, keep_merged_days=30))
        assert {name: is_stored(world, sha256) for name, sha256 in kept.items()} == {
            "old": False,
            "again": True,
            "young": True,
        }
        with world.services.db.read() as session:
            assert len(session.scalars(select(ManifestAccess)).all()) == 2

    def test_strays_go_unless_they_are_young_or_announced(self, world: World, admin: Client, tmp_path: Path) -> None:
        stray = put_stray(world, b"nobody knows these")
        path = tmp_path / "announced"
        path.write_bytes(b"somebody announced these")
        announced = send(world, path)
        assert nothing(admin.retention.gc(dry_run=False))
        planned = admin.retention.gc(dry_run=True, grace_hours=0)
        assert planned.blobs_without_row.model_dump() == {"count": 1, "size_bytes": 18, "digests": [stray]}
        assert (planned.blobs, planned.freed_bytes) == (0, 18)
        same(planned, admin.retention.gc(dry_run=False, grace_hours=0))
        assert (is_stored(world, stray), is_stored(world, announced)) == (False, True)

    def test_bytes_that_are_missing_are_reported_and_nothing_else(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        seed = next(SEEDS)
        lost, whole = push(seed=seed), push()
        push("b", seed=seed)
        lose(world.services.artifacts.storage, file_of(lost))
        before = rows_of(world.services.db)
        for dry_run in (True, False):
            report = admin.retention.gc(dry_run=dry_run, grace_hours=0)
            assert report.rows_without_blob.model_dump() == {
                "count": 1,
                "digests": [file_of(lost)],
                "versions": ["a@v1", "b@v1"],
            }
            assert nothing(report)
        after = rows_of(world.services.db)
        assert {name for name in after if after[name] != before[name]} <= {"audit_entries"}
        assert is_stored(world, file_of(whole))
        # Once nobody wants them they are missed no more.
        admin.versions.delete("a@v1")
        admin.versions.delete("b@v1")
        report = admin.retention.gc(dry_run=False, grace_hours=0)
        assert (report.rows_without_blob.count, report.blobs, report.freed_bytes) == (0, 1, 0)

    def test_bytes_are_not_missed_for_a_version_that_retention_deletes(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        seed = next(SEEDS)
        lost = push(seed=seed)
        push()
        push("b", seed=seed)
        admin.retention.set("a", keep_last=1)
        lose(world.services.artifacts.storage, file_of(lost))
        planned = admin.retention.gc(dry_run=True)
        assert planned.rows_without_blob.versions == ["b@v1"]
        same(planned, admin.retention.gc(dry_run=False))

    def test_many_of_everything_are_told_apart_across_pages(self, world: World, admin: Client, limits: Limits) -> None:
        limits("registry.removal.collect", _PAGE=7, _BATCH=4)
        stored = {number: put_stray(world, b"%d" % number) for number in range(40)}
        with world.services.db.write() as session:
            for number, sha256 in stored.items():
                if number % 2:
                    session.add(Blob(sha256=sha256, stored_as=sha256, size_bytes=len(b"%d" % number)))
            lost = [digest(f"lost {number}") for number in range(15)]
            session.add_all([Blob(sha256=sha256, stored_as=sha256, size_bytes=3) for sha256 in lost])
        # The odd ones are garbage, the even ones strays; of the lost ones, five are announced and therefore missed.
        world.services.uploads.begin(blobs=[BlobSpec(sha256=sha256, size_bytes=3) for sha256 in lost[:5]], who=SYSTEM)
        planned = admin.retention.gc(dry_run=True, grace_hours=0)
        assert (planned.blobs, planned.blobs_without_row.count) == (20 + 10, 20)
        assert planned.blobs_without_row.digests == sorted(stored[number] for number in range(0, 40, 2))
        assert planned.rows_without_blob.digests == sorted(lost[:5])
        assert planned.freed_bytes == sum(len(str(number)) for number in range(40))
        same(planned, admin.retention.gc(dry_run=False, grace_hours=0))
        assert list(world.services.artifacts.storage.list()) == []
