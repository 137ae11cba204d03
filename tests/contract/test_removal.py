"""What becomes of versions and bytes that nobody wants any more: over SQLite and a folder, and PostgreSQL and S3."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from support import registries
from support.adapters import base_registration, digest, lora_tensors, save_adapter
from support.fixtures import S3Place
from support.registries import World
from support.schemas import rows_of
from support.small import write_base
from support.soak import scale
from support.stored import lose, names_of
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from registry.access.audit.models import AuditEntry
from registry.artifacts.blob_check import read_blob
from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.models import Blob, ManifestAccess, ManifestRow, Upload, UploadBlob
from registry.artifacts.uploads import finish_upload
from registry.catalog.models import Version as VersionRow
from registry.catalog.versions.lifecycle import VersionState
from registry.datasets.models import Dataset
from registry.db.database import Model, utc_now
from registry.errors import Unavailable
from registry.http.idempotency.models import KeyedRequest
from registry.jobs.models import Job
from registry.principal import SYSTEM, Role
from registry.removal.collect import Collection
from registry.removal.garbage import Rules
from registry.storage import FolderStorage, open_storage
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotAllowed, NotFound, VerificationFailed
from sdk.errors import Unavailable as ClientUnavailable
from sdk.objects import Version
from sdk.pushing.pack import pack_adapter
from sdk.schemas.artifacts import BlobSpec, UploadRequest, UploadView
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.removal import GcReport, GcRequest
from sdk.transfer import hash_file

#: Each adapter of the run has weights of its own; all have the same config.
SEEDS = itertools.count(1)
WITHOUT_GRACE = GcRequest(dry_run=False, grace_hours=0)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[World]:
    with registries.embedded(tmp_path / "home") as world:
        yield world


@pytest.fixture
def http_postgres_s3(tmp_path: Path, postgres_database: str, s3: S3Place) -> Iterator[World]:
    storage = open_storage(s3.url, s3=s3.options)
    folder = tmp_path / "served"
    with registries.served(folder, database_url=postgres_database, storage_url=s3.url, storage=storage) as world:
        yield world


@pytest.fixture(params=["embedded", "http_postgres_s3"])
def world(request: pytest.FixtureRequest) -> World:
    """A registry that holds one base and nothing else."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    found.admin.register_base(base_registration())
    return found


@pytest.fixture
def admin(world: World) -> Iterator[Client]:
    client = world.client(Role.ADMIN)
    yield client
    client.close()


@pytest.fixture
def push(world: World, tmp_path: Path) -> Callable[..., Version]:
    """Push an adapter with weights of its own, or those of a seed."""

    def push(name: str = "a", seed: int | None = None) -> Version:
        folder = save_adapter(tmp_path / uuid.uuid4().hex, next(SEEDS) if seed is None else seed)
        return world.writer.push(folder, name, base="tiny")

    return push


def age(world: World, model: type[Model], hours: float, *conditions: Any, column: str = "created_at") -> None:
    """Let rows look so many hours older."""
    with world.services.db.write() as session:
        session.execute(update(model).where(*conditions).values({column: utc_now() - timedelta(hours=hours)}))


def is_stored(world: World, sha256: str) -> bool:
    return bool(names_of(world.services.artifacts.storage, sha256))


def stored_bytes(world: World) -> int:
    storage = world.services.artifacts.storage
    return sum(stat.size_bytes for stat in map(storage.stat, storage.list()) if stat is not None)


def file_of(version: Version, path: str = WEIGHTS) -> str:
    return next(file.sha256 for file in version.info.files if file.path == path)


def rules(world: World, **changed: Any) -> Rules:
    """The rules of a run without grace, for its single steps."""
    now = utc_now()
    given = {"now": now, "given_up_before": now, "merged_before": None, "dry_run": False} | changed
    return Rules(**given)


def collection(world: World) -> Collection:
    return Collection(world.services.db, world.services.artifacts.storage, rules(world))


def publication(client: Client, folder: Path, name: str) -> Publication:
    """Upload an adapter, and say what is to be published of it."""
    staging = folder.parent / f"staging-{uuid.uuid4().hex}"
    staging.mkdir()
    package = pack_adapter(
        folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
    )
    upload = client.upload(package.sources, "uploading")
    return Publication(adapter=name, upload=upload, manifest=package.manifest, lora=package.lora)


def publish(client: Client, body: Publication) -> Published:
    return client.call("POST", "/versions", Published, body=body)


def announce(client: Client, path: Path) -> UploadView:
    sha256, size = hash_file(path)
    body = UploadRequest(blobs=[BlobSpec(sha256=sha256, size_bytes=size)])
    return client.call("POST", "/uploads", UploadView, body=body)


def send(world: World, path: Path) -> str:
    """Announce a file, and let it arrive where its session sends it."""
    (put,) = announce(world.writer, path).put
    with world.services.db.read() as session:
        name = session.scalars(select(UploadBlob.stored_as).where(UploadBlob.sha256 == put.sha256)).one()
    world.services.artifacts.storage.put(name, put.size_bytes, iter([path.read_bytes()]))
    return put.sha256


def put_stray(world: World, content: bytes) -> str:
    """Store bytes that no row names."""
    sha256 = hashlib.sha256(content).hexdigest()
    world.services.artifacts.storage.put(sha256, len(content), iter([content]))
    return sha256


def put_partial(world: World, *, hours: float) -> Path:
    """Leave what an interrupted upload leaves in a folder."""
    storage = world.services.artifacts.storage
    assert isinstance(storage, FolderStorage)
    path = storage.path_of("ab" * 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.write_bytes(b"half")
    then = time.time() - hours * 3600
    os.utime(partial, (then, then))
    return partial


def same(planned: GcReport, done: GcReport) -> None:
    """A dry run and the real one that follows say the same."""
    assert (planned.dry_run, done.dry_run) == (True, False)
    assert planned.model_dump(exclude={"dry_run"}) == done.model_dump(exclude={"dry_run"})


def nothing(report: GcReport) -> bool:
    """Whether a run found nothing to remove."""
    counts = report.model_dump(exclude={"dry_run", "blobs_without_row", "rows_without_blob"})
    return not any(counts.values()) and not report.blobs_without_row.count


class TestMoves:
    def test_an_archived_version_is_hidden_and_still_found(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        first, second = push(), push()
        writer = world.writer
        assert writer.archive("a@v2", reason="worse than v1").info.state == "archived"
        assert [version.ref for version in writer.versions("a")] == ["a@v1"]
        assert {version.ref for version in writer.versions("a", archived=True)} == {"a@v1", "a@v2"}
        assert writer.get("a").ref == "a@v1"
        assert writer.get("a@v2").digest == second.digest
        assert writer.get(f"a@sha256:{second.digest[:16]}").ref == "a@v2"
        assert writer.pull("a@v2", tmp_path / "pulled").is_dir()
        # Again is fine, and there is nothing to collect of it.
        assert writer.archive("a@v2").info.state == "archived"
        assert nothing(admin.gc(dry_run=False, grace_hours=0))
        assert is_stored(world, file_of(second))
        assert writer.restore("a@v2").info.state == "ready"
        assert writer.get("a").ref == "a@v2"
        assert writer.restore("a@v2").info.state == "ready"
        assert first.number == 1

    def test_an_archived_version_stays_one_when_its_bytes_are_pushed_again(
        self, world: World, push: Callable[..., Version]
    ) -> None:
        seed = next(SEEDS)
        push(seed=seed)
        world.writer.archive("a@v1")
        again = push(seed=seed)
        assert (again.ref, again.info.state) == ("a@v1", "archived")

    @pytest.mark.parametrize("verb", ["archive", "delete"])
    def test_an_aliased_version_is_refused_with_the_names(
        self, admin: Client, push: Callable[..., Version], verb: str
    ) -> None:
        push()
        for alias in ("staging", "production"):
            admin.set_alias("a", alias, 1)
        with pytest.raises(Conflict, match=r"production, staging.*adapterctl alias"):
            getattr(admin, verb)("a@v1")
        assert admin.get("a@v1").info.state == "ready"
        for alias in ("staging", "production"):
            admin.remove_alias("a", alias)
        assert getattr(admin, verb)("a@v1").ref == "a@v1"

    def test_a_deleted_version_leaves_its_number(
        self, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        push()
        push(seed=seed)
        assert admin.delete("a@v2", reason="trained on the test set").info.state == "deleted"
        for look in (admin.get, admin.pull, admin.archive, admin.restore, admin.delete):
            with pytest.raises(NotFound, match=r"a@v2 was deleted.*adapterctl versions a"):
                look("a@v2")
        assert admin.get("a").ref == "a@v1"
        assert [version.ref for version in admin.versions("a", archived=True)] == ["a@v1"]
        again = push(seed=seed)
        assert again.ref == "a@v3"
        assert admin.pull("a@v3", tmp_path / "pulled").is_dir()

    def test_deleted_bytes_can_be_pushed_again_after_they_were_collected(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.delete("a@v1")
        report = admin.gc(dry_run=False, grace_hours=0)
        # The config went too: no other version has it.
        assert (report.manifests, report.blobs) == (1, 2)
        assert not is_stored(world, weights)
        again = push(seed=seed)
        assert again.ref == "a@v2"
        assert is_stored(world, weights)
        admin.cache.root = tmp_path / "another-cache"
        assert hash_file(admin.pull("a@v2", tmp_path / "pulled") / WEIGHTS)[0] == weights

    def test_deletion_is_in_the_audit_trail(self, world: World, admin: Client, push: Callable[..., Version]) -> None:
        push()
        admin.delete("a@v1", reason="wrong data")
        entry = admin.audit(action="version.delete")[0]
        assert (entry.subject, entry.before, entry.after) == (
            "a@v1",
            {"state": "ready"},
            {"state": "deleted", "reason": "wrong data"},
        )


class TestRetention:
    def test_a_rule_is_set_read_and_cleared(self, admin: Client, push: Callable[..., Version]) -> None:
        push()
        assert admin.retention("a").rule is None
        for given in ({"keep_last": 3}, {"keep_days": 90}, {"keep_last": 3, "keep_days": 90}):
            assert admin.set_retention("a", **given) == admin.retention("a")
            rule = admin.retention("a").rule
            assert rule is not None
            assert rule.model_dump(exclude_none=True) == given
        admin.clear_retention("a")
        assert admin.retention("a").rule is None
        admin.clear_retention("a")
        trail = [(entry.action, entry.subject) for entry in admin.audit(action="retention.*")]
        assert trail == [("retention.clear", "a"), *[("retention.set", "a")] * 3]
        for bad in ({}, {"keep_last": 0}, {"keep_days": 0}):
            with pytest.raises(InvalidInput):
                admin.set_retention("a", **bad)
        with pytest.raises(NotFound):
            admin.set_retention("nothing", keep_last=1)

    def test_the_newest_ready_ones_are_kept_and_what_aliases_name(
        self, admin: Client, push: Callable[..., Version]
    ) -> None:
        for _ in range(6):
            push()
        push("other")
        admin.set_alias("a", "production", 1)
        admin.archive("a@v5")
        admin.archive("a@v2")
        admin.set_retention("a", keep_last=2)
        planned = admin.gc(dry_run=True)
        # v5 is archived, so v4 and v6 are the newest two; archived ones are among no newest.
        assert planned.retired_versions == ["a@v2", "a@v3", "a@v5"]
        assert {version.ref for version in admin.versions("a", archived=True)} == {f"a@v{n}" for n in range(1, 7)}
        same(planned, admin.gc(dry_run=False))
        assert {version.ref for version in admin.versions("a", archived=True)} == {"a@v1", "a@v4", "a@v6"}
        entry = admin.audit(action="version.delete")[0]
        assert entry.after == {"state": "deleted", "reason": "retention: keeps the newest 2"}
        assert nothing(admin.gc(dry_run=False))
        assert [version.ref for version in admin.versions("other")] == ["other@v1"]

    def test_young_ones_are_kept(self, world: World, admin: Client, push: Callable[..., Version]) -> None:
        for _ in range(4):
            push()
        admin.archive("a@v1")
        admin.archive("a@v4")
        age(world, VersionRow, 24 * 10 + 1, VersionRow.number <= 2)
        admin.set_retention("a", keep_days=11)
        assert admin.gc(dry_run=True).retired_versions == []
        admin.set_retention("a", keep_days=10)
        assert admin.gc(dry_run=True).retired_versions == ["a@v1", "a@v2"]
        # Either part of a rule is enough.
        admin.set_retention("a", keep_days=10, keep_last=2)
        assert admin.gc(dry_run=False).retired_versions == ["a@v1"]

    def test_a_parent_of_a_kept_version_is_not_kept_and_stays_in_the_lineage(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        push()
        body = publication(world.writer, save_adapter(tmp_path / "child", next(SEEDS)), "a")
        parent = {"ref": "a@v1", "relation": "continued-from", "weight": None}
        publish(world.writer, Publication.model_validate(body.model_dump() | {"parents": [parent]}))
        admin.set_retention("a", keep_last=1)
        assert admin.gc(dry_run=False, grace_hours=0).retired_versions == ["a@v1"]
        assert [found.ref for found in admin.get("a@v2").info.parents] == ["a@v1"]

    def test_what_retention_deletes_is_freed_in_the_same_run_where_there_is_no_grace(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        old, new = push(), push()
        admin.set_retention("a", keep_last=1)
        later = admin.gc(dry_run=True, grace_hours=1)
        assert (later.retired_versions, later.manifests, later.blobs) == (["a@v1"], 0, 0)
        planned = admin.gc(dry_run=True, grace_hours=0)
        assert (planned.manifests, planned.blobs) == (1, 1)
        same(planned, admin.gc(dry_run=False, grace_hours=0))
        assert not is_stored(world, file_of(old))
        assert is_stored(world, file_of(new))


class TestBlobs:
    def test_what_two_versions_share_goes_with_the_last(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        first, twin, other = push(seed=seed), push("b", seed=seed), push()
        config, weights = file_of(first, CONFIG), file_of(first)
        assert (first.digest, file_of(other, CONFIG)) == (twin.digest, config)
        admin.delete("a@v1")
        assert nothing(admin.gc(dry_run=False, grace_hours=0))
        admin.delete("b@v1")
        report = admin.gc(dry_run=False, grace_hours=0)
        assert (report.manifests, report.blobs, report.freed_bytes) == (1, 1, first.info.files[1].size_bytes)
        assert (is_stored(world, weights), is_stored(world, config)) == (False, True)
        admin.cache.root = tmp_path / "another-cache"
        assert admin.pull(other.ref, tmp_path / "pulled").is_dir()
        with pytest.raises(NotFound):
            admin.locate(first.digest)

    def test_the_grace_period_runs_from_the_deletion(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        weights = file_of(push())
        admin.delete("a@v1")
        for model in (Blob, ManifestRow):
            age(world, model, 1000)
        age(world, VersionRow, 23, column="moved_at")
        assert nothing(admin.gc(dry_run=False))
        age(world, VersionRow, 25, column="moved_at")
        assert nothing(admin.gc(dry_run=False, grace_hours=26))
        same(admin.gc(dry_run=True), admin.gc(dry_run=False))
        assert not is_stored(world, weights)

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
        assert nothing(admin.gc(dry_run=False, grace_hours=0))
        age(world, Upload, 1, column="expires_at")
        assert admin.gc(dry_run=True, grace_hours=26).blobs == 0
        planned = admin.gc(dry_run=True, grace_hours=24)
        assert (planned.blobs, planned.freed_bytes) == (2, size)
        assert planned.expired_uploads == 1
        same(planned, admin.gc(dry_run=False, grace_hours=24))
        assert not is_stored(world, weights)

    def test_datasets_hold_their_rows(self, world: World, admin: Client, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"prompt": "a", "completion": "b"}\n')
        data = world.writer.add_data(path)
        assert nothing(admin.gc(dry_run=False, grace_hours=0))
        world.writer.remove_data("rows.jsonl")
        age(world, Blob, 1000)
        age(world, Dataset, 23, column="removed_at")
        assert nothing(admin.gc(dry_run=False))
        # Added again meanwhile, its time begins anew.
        assert world.writer.add_data(path).digest == data.digest
        age(world, Upload, 1, column="expires_at")
        assert admin.gc(dry_run=False, grace_hours=0).blobs == 0
        world.writer.remove_data(data.digest)
        planned = admin.gc(dry_run=True, grace_hours=0)
        assert (planned.blobs, planned.freed_bytes) == (1, data.size_bytes)
        same(planned, admin.gc(dry_run=False, grace_hours=0))
        assert not is_stored(world, data.digest)
        assert world.writer.add_data(path).digest == data.digest
        assert is_stored(world, data.digest)

    def test_bases_hold_their_files(self, world: World, admin: Client, tmp_path: Path) -> None:
        folder = write_base(tmp_path / "base", value=0.875)
        assert world.admin.add_base(folder, upload=True).uploaded
        assert nothing(admin.gc(dry_run=False, grace_hours=0))
        assert is_stored(world, hash_file(folder / "model.safetensors")[0])
        # Taken away by every namespace that had it, its files go.
        admin.remove_base("base")
        assert admin.gc(dry_run=False, grace_hours=0).blobs == 3
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
            upload = world.writer.upload({sha256: path}, "uploading")
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
        assert nothing(admin.gc(dry_run=False, grace_hours=0))
        planned = admin.gc(dry_run=True, keep_merged_days=30)
        assert (planned.manifests, planned.blobs) == (1, 1)
        same(planned, admin.gc(dry_run=False, keep_merged_days=30))
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
        assert nothing(admin.gc(dry_run=False))
        planned = admin.gc(dry_run=True, grace_hours=0)
        assert planned.blobs_without_row.model_dump() == {"count": 1, "size_bytes": 18, "digests": [stray]}
        assert (planned.blobs, planned.freed_bytes) == (0, 18)
        same(planned, admin.gc(dry_run=False, grace_hours=0))
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
            report = admin.gc(dry_run=dry_run, grace_hours=0)
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
        admin.delete("a@v1")
        admin.delete("b@v1")
        report = admin.gc(dry_run=False, grace_hours=0)
        assert (report.rows_without_blob.count, report.blobs, report.freed_bytes) == (0, 1, 0)

    def test_bytes_are_not_missed_for_a_version_that_retention_deletes(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        seed = next(SEEDS)
        lost = push(seed=seed)
        push()
        push("b", seed=seed)
        admin.set_retention("a", keep_last=1)
        lose(world.services.artifacts.storage, file_of(lost))
        planned = admin.gc(dry_run=True)
        assert planned.rows_without_blob.versions == ["b@v1"]
        same(planned, admin.gc(dry_run=False))

    def test_many_of_everything_are_told_apart_across_pages(
        self, world: World, admin: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry.removal.collect._PAGE", 7)
        monkeypatch.setattr("registry.removal.collect._BATCH", 4)
        stored = {number: put_stray(world, b"%d" % number) for number in range(40)}
        with world.services.db.write() as session:
            for number, sha256 in stored.items():
                if number % 2:
                    session.add(Blob(sha256=sha256, stored_as=sha256, size_bytes=len(b"%d" % number)))
            lost = [digest(f"lost {number}") for number in range(15)]
            session.add_all([Blob(sha256=sha256, stored_as=sha256, size_bytes=3) for sha256 in lost])
        # The odd ones are garbage, the even ones strays; of the lost ones, five are announced and therefore missed.
        world.services.uploads.begin(blobs=[BlobSpec(sha256=sha256, size_bytes=3) for sha256 in lost[:5]], who=SYSTEM)
        planned = admin.gc(dry_run=True, grace_hours=0)
        assert (planned.blobs, planned.blobs_without_row.count) == (20 + 10, 20)
        assert planned.blobs_without_row.digests == sorted(stored[number] for number in range(0, 40, 2))
        assert planned.rows_without_blob.digests == sorted(lost[:5])
        assert planned.freed_bytes == sum(len(str(number)) for number in range(40))
        same(planned, admin.gc(dry_run=False, grace_hours=0))
        assert list(world.services.artifacts.storage.list()) == []


class TestSteps:
    """A run that is killed between its steps, and who comes in between."""

    def test_a_kill_between_the_steps_leaves_work_for_the_next_run(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        version = push()
        weights = file_of(version)
        push()
        admin.delete("a@v1")
        collection(world).retire_manifests()
        assert collection(world).give_up([weights]) == [weights]
        assert is_stored(world, weights)
        planned = admin.gc(dry_run=True, grace_hours=0)
        assert (planned.blobs, planned.freed_bytes) == (1, version.info.files[1].size_bytes)
        same(planned, admin.gc(dry_run=False, grace_hours=0))
        assert not is_stored(world, weights)
        assert nothing(admin.gc(dry_run=False, grace_hours=0))

    def test_bytes_that_are_sent_between_the_steps_stay(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.delete("a@v1")
        collection(world).retire_manifests()
        run = collection(world)
        assert run.give_up([weights]) == [weights]
        # The uploader is told to send them, though the bytes are still there, and nothing takes them away any more.
        folder = save_adapter(tmp_path / "again", seed)
        assert [put.sha256 for put in announce(world.writer, folder / WEIGHTS).put] == [weights]
        assert run.take_away([weights]) == []
        assert collection(world).take_away([weights]) == []
        assert admin.gc(dry_run=False, grace_hours=0).freed_bytes < (folder / WEIGHTS).stat().st_size
        assert is_stored(world, weights)
        assert world.writer.push(folder, "a", base="tiny").ref == "a@v2"
        assert is_stored(world, weights)

    def test_a_version_that_is_pushed_between_the_steps_is_whole(
        self, world: World, admin: Client, push: Callable[..., Version]
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.delete("a@v1")
        run = collection(world)
        run.retire_manifests()
        assert run.give_up([weights]) == [weights]
        assert push(seed=seed).ref == "a@v2"
        assert run.take_away([weights]) == []
        assert is_stored(world, weights)
        # What was sent again lies under a name of its own, and the bytes that were given up are nobody's.
        report = admin.gc(dry_run=False, grace_hours=0)
        assert (report.blobs, report.blobs_without_row.count, report.rows_without_blob.count) == (0, 1, 0)
        assert len(names_of(world.services.artifacts.storage, weights)) == 1

    def test_a_session_that_counts_on_stored_bytes_keeps_them(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        weights = file_of(push(seed=seed))
        admin.delete("a@v1")
        folder = save_adapter(tmp_path / "again", seed)
        # Nothing is to be sent: they are stored. A run that saw them before the session began looks once more.
        body = publication(world.writer, folder, "b")
        collection(world).retire_manifests()
        assert collection(world).give_up([weights]) == []
        assert admin.gc(dry_run=False, grace_hours=0).blobs == 0
        assert publish(world.writer, body).version.ref == "b@v1"
        assert is_stored(world, weights)

    def test_a_session_that_has_ended_is_no_way_to_publish_what_was_collected(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        folder = save_adapter(tmp_path / "once", next(SEEDS))
        body = publication(world.writer, folder, "a")
        publish(world.writer, body)
        admin.delete("a@v1")
        # Made into a version, the session holds nothing any more: without grace the bytes go at once.
        assert admin.gc(dry_run=False, grace_hours=0).blobs == 2
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
        with pytest.raises(VerificationFailed, match="removed while it was verified; push again"):
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
        admin.delete("a@v1")
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
        admin.delete("a@v1")
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
        world.admin.register_base(base_registration())
        first, other = (
            world.writer.push(save_adapter(tmp_path / name, next(SEEDS)), name, base="tiny") for name in ("a", "b")
        )
        whole = first.info.manifest
        extra = other.info.files[0].model_copy(update={"path": "README.md"})
        manifest = whole.model_copy(update={"files": sorted([*whole.files, extra], key=lambda file: file.path)})
        body = Publication(adapter="c", manifest=manifest, lora=first.info.lora)
        collecting: list[Future[GcReport]] = []
        with closing(world.client(Role.ADMIN)) as admin, ThreadPoolExecutor() as pool:

            def meanwhile(_session: Session, _published: Published) -> None:
                admin.delete("a@v1")
                collecting.append(pool.submit(world.services.removal.collect, request=WITHOUT_GRACE, who=SYSTEM))
                assert not wait(collecting, 0.5).done

            who = world.principal(Role.ADMIN)
            assert world.services.publisher.publish(publication=body, who=who, finish=meanwhile).version.number == 1
            report = collecting[0].result()
        assert (report.manifests, report.blobs) == (1, 0)
        assert is_stored(world, file_of(first))

    def test_a_manifest_that_is_retired_while_it_is_published_again_is_taken_back(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        first = push(seed=seed)
        admin.delete("a@v1")
        body = publication(world.writer, save_adapter(tmp_path / "again", seed), "b")
        collection(world).retire_manifests()
        with world.services.db.read() as session:
            assert session.get_one(ManifestRow, first.digest).collected_at is not None
            assert session.get(ManifestAccess, (first.digest, "-")) is None
        assert publish(world.writer, body).version.digest == first.digest
        assert [file.path for file in world.writer.get("b@v1").info.files] == [CONFIG, WEIGHTS]
        assert len(world.writer.locate(first.digest)) == 2
        assert admin.gc(dry_run=False, grace_hours=0).manifests == 0


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
        admin.set_retention("a", keep_last=2)
        admin.delete("b@v1")
        put_stray(world, b"stray")
        lose(world.services.artifacts.storage, file_of(versions[3]))
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "a"}\n')
        world.writer.remove_data(world.writer.add_data(rows).digest)
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
        planned = admin.gc(dry_run=True, grace_hours=0)
        assert (rows_of(world.services.db), list(world.services.artifacts.storage.list())) == before
        assert planned == admin.gc(dry_run=True, grace_hours=0)
        done = admin.gc(dry_run=False, grace_hours=0)
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
        assert nothing(admin.gc(dry_run=False, grace_hours=0))

        entries = admin.audit(action="gc.run")
        assert len(entries) == 2
        assert entries[1].after is not None
        assert entries[1].after["blobs"] == 4
        assert entries[1].after["retired_versions"] == 2
        assert (entries[1].namespace, entries[1].subject) == ("*", "registry")

    def test_a_publication_whose_publisher_died_can_be_made_again(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        folder = save_adapter(tmp_path / "dead", next(SEEDS))
        body = publication(world.writer, folder, "a")
        world.announce(body, world.principal(Role.WRITER))
        assert admin.gc(dry_run=False, grace_hours=0).failed_pending == 0
        age(world, VersionRow, 25)
        assert admin.gc(dry_run=False, grace_hours=0).failed_pending == 1
        with world.services.db.read() as session:
            row = session.scalars(select(VersionRow)).one()
            assert (row.state, row.number) == ("failed", None)
            assert "push it again" in (row.refusal or "")
        assert world.writer.push(folder, "a", base="tiny").ref == "a@v1"

    def test_what_is_asked_must_be_said(self, world: World) -> None:
        for body in ({}, {"grace_hours": 1}, {"dry_run": "yes"}, {"dry_run": True, "grace_hours": 8761}):
            assert world.http.post("/api/v1/gc", json=body).status_code == 422
        with pytest.raises(InvalidInput):
            world.writer.gc(dry_run=True, grace_hours=-1)

    def test_publishers_race_with_collections_and_no_version_misses_a_byte(
        self, world: World, admin: Client, tmp_path: Path
    ) -> None:
        rounds, publishers = scale(400), 3
        folders = [save_adapter(tmp_path / f"shared-{number}", next(SEEDS)) for number in range(2)]
        done = threading.Event()

        def publish_often(me: int) -> None:
            client = world.client(Role.ADMIN)
            try:
                for number in range(rounds):
                    version = patiently(client.push, folders[(me + number) % 2], f"racer-{me}", base="tiny")
                    lost = [file.path for file in version.info.files if not is_stored(world, file.sha256)]
                    assert not lost, f"{version.ref} misses {lost}"
                    patiently(client.delete, version.ref)
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
        report = admin.gc(dry_run=False, grace_hours=0)
        assert report.rows_without_blob.count == 0
        with world.services.db.read() as session:
            ready = session.scalars(select(VersionRow).where(VersionRow.state == VersionState.READY)).all()
        assert len(ready) == publishers
        admin.cache.root = tmp_path / "another-cache"
        for row in ready:
            admin.pull(f"{row.adapter.name}@v{row.number}", tmp_path / f"pulled-{row.adapter.name}")


class TestRoles:
    @pytest.fixture
    def clients(self, http_postgres_s3: World) -> Iterator[dict[str, Client]]:
        world = http_postgres_s3
        world.admin.register_base(base_registration())
        with ExitStack() as stack:
            found = {role.value: world.client(role) for role in Role}
            found["team admin"] = world.client(Role.ADMIN, namespace="team")
            found["stranger"] = world.client(Role.READER, namespace="elsewhere")
            for client in found.values():
                stack.callback(client.close)
            yield found

    def test_who_may_take_away_what(self, clients: dict[str, Client], tmp_path: Path) -> None:
        clients["writer"].push(save_adapter(tmp_path / "one", next(SEEDS)), "team/a", base="tiny")
        clients["writer"].push(save_adapter(tmp_path / "two", next(SEEDS)), "a", base="tiny")
        moves: dict[str, Callable[[Client], object]] = {
            "archive": lambda client: client.archive("team/a@v1"),
            "restore": lambda client: client.restore("team/a@v1"),
            "rule": lambda client: client.set_retention("team/a", keep_last=1),
            "read": lambda client: client.retention("team/a"),
            "clear": lambda client: client.clear_retention("team/a"),
            "collect": lambda client: client.gc(dry_run=True),
            "delete": lambda client: client.delete("team/a@v1"),
        }
        allowed = {
            "reader": {"read"},
            "worker": {"read"},
            "stranger": set(),
            "writer": {"read", "archive", "restore"},
            "promoter": {"read", "archive", "restore"},
            "admin": set(moves) - {"delete"},
            "team admin": set(moves) - {"collect"},
        }
        for name, may in allowed.items():
            for move, do in moves.items():
                if move in may:
                    do(clients[name])
                elif name == "admin":
                    continue
                elif name == "stranger" and move == "read":
                    with pytest.raises(NotFound):
                        do(clients[name])
                else:
                    with pytest.raises(NotAllowed):
                        do(clients[name])
        with pytest.raises(NotFound):
            clients["team admin"].delete("a@v1")
        clients["admin"].delete("a@v1")


def test_a_collection_says_who_made_it(embedded: World) -> None:
    embedded.services.removal.collect(request=WITHOUT_GRACE, who=SYSTEM)
    with embedded.services.db.read() as session:
        entry = session.scalars(select(AuditEntry)).one()
    assert (entry.actor, entry.action) == ("registry", "gc.run")
