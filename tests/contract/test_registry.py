"""Every registry keeps the one contract: in process over SQLite, over HTTP with SQLite, and over PostgreSQL and S3."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import select, update
from support import registries
from support.adapters import BASE_TENSORS, SPEC, base_registration, digest, lora_tensors, save_adapter, use_of
from support.fixtures import S3Place
from support.migrated import migrated_database
from support.registries import SHORT_LEASE_S, World
from support.servers import TestPostgres
from support.statements import plan_of, sent
from support.stored import lose, names_of

from registry.access.authentication import TRUST_S
from registry.artifacts.manifests import blobs_of
from registry.catalog.bases.finding import KnownBases
from registry.catalog.models import Adapter, Alias, AliasMoveRow, Version
from registry.catalog.publishing.new_version import Making
from registry.catalog.versions.finding import find_adapter
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.present import refresh_document
from registry.db.database import connection_of, db_epoch_s
from registry.errors import RegistryError
from registry.http.request_bodies import MAX_BODY_BYTES
from registry.jobs.models import Job
from registry.principal import SYSTEM, Role
from registry.storage import FolderStorage, open_storage
from sdk.client import Client
from sdk.errors import (
    Conflict,
    InvalidBase,
    InvalidInput,
    InvalidName,
    InvalidRef,
    JobCancelled,
    JobFailed,
    NotAllowed,
    NotFound,
    StaleAttempt,
    Unauthenticated,
    VerificationFailed,
)
from sdk.pushing.pack import pack_adapter
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.evaluation import EvaluationReport, MergeReport
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.jobs import BaseChoice, JobSubmission, JobView, TrainingRequest
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import (
    Assignment,
    ClaimRequest,
    Completion,
    EvaluationResult,
    Failure,
    Heartbeat,
    HeartbeatReply,
    MergeResult,
    WorkerInfo,
)
from sdk.stack.seaweed import SeaweedServer
from sdk.transfer import hash_file

#: Each adapter of the run has bytes of its own.
SEEDS = itertools.count(1)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("embedded") / "home") as world:
        yield world


@pytest.fixture(scope="module")
def http_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("http")
    database_url = f"sqlite:///{folder / 'registry.sqlite3'}"
    with registries.served(folder, database_url=database_url, storage_url=(folder / "artifacts").as_uri()) as world:
        yield world


@pytest.fixture(scope="module")
def http_postgres_s3(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: TestPostgres, s3_server: SeaweedServer
) -> Iterator[World]:
    name = f"registry_{uuid.uuid4().hex}"
    place = S3Place(
        endpoint_url=s3_server.url,
        bucket="adapterctl",
        prefix=name,
        region=s3_server.region,
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
    )
    storage = open_storage(place.url, s3=place.options)
    database_url = migrated_database(postgres_server, name)
    folder = tmp_path_factory.mktemp("postgres")
    with registries.served(folder, database_url=database_url, storage_url=place.url, storage=storage) as world:
        yield world
    postgres_server.drop_database(name)


@pytest.fixture(scope="module", params=["embedded", "http_sqlite", "http_postgres_s3"])
def world(request: pytest.FixtureRequest) -> World:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    found.admin.register_base(base_registration())
    return found


@pytest.fixture(scope="module", params=["http_sqlite", "http_postgres_s3"])
def guarded(request: pytest.FixtureRequest) -> World:
    """Registries that want a token."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    return found


@pytest.fixture
def writer(world: World) -> Client:
    return world.writer


@pytest.fixture
def name() -> str:
    """The name of an adapter that no other test has."""
    return f"adapter-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with an adapter whose bytes nobody has."""
    return save_adapter(tmp_path / "adapter", next(SEEDS))


@pytest.fixture(scope="module")
def rows(world: World, tmp_path_factory: pytest.TempPathFactory) -> DatasetView:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    return world.writer.add_data(path)


@pytest.fixture
def quiet(world: World) -> World:
    """A registry in which no job waits."""
    for state in ("queued", "running"):
        for job in world.writer.jobs(state=state, limit=1000):
            world.writer.cancel_job(job.id)
    return world


# What workers do, as they do it.


def worker_info(name: str = "w1", **changed: Any) -> WorkerInfo:
    return WorkerInfo.model_validate(
        {"name": name, "device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**33} | changed
    )


def claim(client: Client, hint: str | None = None, **worker: Any) -> Assignment | None:
    body = ClaimRequest(worker=worker_info(**worker), hint=hint)
    return client.call("POST", "/jobs/claim", Assignment | None, body=body)  # type: ignore[arg-type]


def beat(client: Client, held: Assignment, *events: NewEvent) -> HeartbeatReply:
    body = Heartbeat(attempt=held.attempt, events=list(events))
    return client.call("POST", f"/jobs/{held.job}/heartbeat", HeartbeatReply, body=body)


def complete(client: Client, held: Assignment, **result: Any) -> JobView:
    body = Completion(attempt=held.attempt, **result)
    return client.call("POST", f"/jobs/{held.job}/complete", JobView, body=body)


def fail(client: Client, held: Assignment, reason: str, message: str = "it broke") -> JobView:
    body = Failure(attempt=held.attempt, reason=reason, message=message)
    return client.call("POST", f"/jobs/{held.job}/fail", JobView, body=body)


def submission(name: str, rows: DatasetView, *, base: str = "tiny", priority: int = 0, **spec: Any) -> JobSubmission:
    choice = BaseChoice(id=base, fingerprint=digest(f"{base}: base"))
    request = TrainingRequest.model_validate(
        {"adapter": name, "base": choice, "data": rows.digest, "spec": SPEC.model_dump() | spec}
    )
    return JobSubmission(request=request, priority=priority)


def submit(client: Client, body: JobSubmission, key: str | None = None) -> JobView:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.call("POST", "/jobs", JobView, body=body, headers=headers)


def publication(client: Client, folder: Path, name: str, **changed: Any) -> Publication:
    """Upload an adapter and say what a worker says of it."""
    staging = folder.parent / f"staging-{uuid.uuid4().hex}"
    staging.mkdir()
    package = pack_adapter(
        folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
    )
    return Publication.model_validate(
        {
            "adapter": name,
            "upload": client.upload(package.sources, "uploading"),
            "manifest": package.manifest,
            "lora": package.lora,
            "metrics": {"loss": 1.25},
        }
        | changed
    )


def trained(client: Client, folder: Path, name: str, rows: DatasetView) -> Publication:
    """Upload an adapter that a job trained on `rows`."""
    return publication(client, folder, name, dataset=use_of(rows.digest))


def publish(client: Client, body: Publication) -> Published:
    return client.call("POST", "/versions", Published, body=body)


def states_of(world: World, name: str) -> list[tuple[str, int | None]]:
    """Every row of an adapter's versions, also those that nobody can see."""
    with world.services.db.read() as session:
        rows = session.scalars(select(Version).order_by(Version.pk)).all()
        return [(row.state, row.number) for row in rows if row.adapter.name == name]


class TestVersions:
    def test_a_push_is_a_version_with_its_lineage(self, writer: Client, name: str, adapter: Path) -> None:
        version = writer.push(adapter, name, base="tiny", description="of a test", tags={"team": "a"})
        assert version.ref == f"{name}@v1"
        info = writer.get(name).info
        assert (info.state, info.description, info.tags) == ("ready", "of a test", {"team": "a"})
        assert info.base.fingerprint == digest("tiny: base")
        assert (info.lora.rank, info.lora.alpha, info.lora.target_modules) == (2, 4.0, ["q_proj", "v_proj"])
        assert info.manifest.digest == info.digest == version.digest
        assert [file.path for file in info.files] == ["adapter_config.json", "adapter_model.safetensors"]
        assert name in {found.adapter: found.latest for found in writer.adapters()}

    def test_numbers_are_one_to_n_and_every_ref_finds_its_version(
        self, writer: Client, name: str, tmp_path: Path
    ) -> None:
        pushed = [writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny") for n in range(3)]
        assert [version.number for version in pushed] == [1, 2, 3]
        assert [version.number for version in writer.versions(name)] == [3, 2, 1]
        writer.set_alias(name, "production", 2)
        found = {
            f"{name}": 3,
            f"{name}@latest": 3,
            f"{name}@v1": 1,
            f"{name}@v2": 2,
            f"{name}@production": 2,
            f"{name}@sha256:{pushed[0].digest[:12]}": 1,
            f"{name}@sha256:{pushed[2].digest}": 3,
        }
        assert {ref: writer.get(ref).number for ref in found} == found
        assert writer.get(f"{name}@v2").info.aliases == ["production"]

    def test_refs_that_mean_nothing_say_so(self, world: World, writer: Client, name: str, adapter: Path) -> None:
        with pytest.raises(NotFound):
            writer.get(name)
        writer.push(adapter, name, base="tiny")
        for ref in (f"{name}@v2", f"{name}@staging", f"{name}@sha256:{'0' * 12}"):
            with pytest.raises(NotFound):
                writer.get(ref)
        # What the SDK refuses by itself, the registry refuses too.
        for ref, code in (
            (f"{name}@v01", "invalid_ref"),
            (f"{name}@sha256:12", "invalid_ref"),
            ("../x", "invalid_name"),
        ):
            answer = world.http.get("/api/v1/resolve", params={"ref": ref})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
        with pytest.raises(InvalidName):
            writer.get("Upper")
        with pytest.raises(InvalidRef):
            writer.get(f"{name}@sha256:xyz")

    def test_the_same_bytes_again_are_the_existing_version(self, writer: Client, name: str, adapter: Path) -> None:
        first = writer.push(adapter, name, base="tiny")
        again = writer.push_with_report(adapter, name, base="tiny", description="another word")
        assert (again.existing, again.version.ref) == (True, first.ref)
        assert again.version.description == ""
        assert len(writer.versions(name)) == 1
        # In another adapter they are a version of its own.
        assert writer.push(adapter, f"{name}-b", base="tiny").ref == f"{name}-b@v1"

    def test_a_refused_push_burns_no_number_and_leaves_nothing_visible(
        self, world: World, writer: Client, name: str, tmp_path: Path
    ) -> None:
        zero = {key: value * ("lora_A" in key) for key, value in lora_tensors(next(SEEDS)).items()}
        bad = save_adapter(tmp_path / "bad", tensors=zero)
        with pytest.raises(VerificationFailed, match="changes nothing"):
            writer.push(bad, name, base="tiny")
        for look in (lambda: writer.get(name), lambda: writer.versions(name), lambda: writer.aliases(name)):
            with pytest.raises(NotFound):
                look()
        assert name not in {found.adapter for found in writer.adapters()}
        assert states_of(world, name) == [("failed", None)]
        assert writer.push(save_adapter(tmp_path / "good", next(SEEDS)), name, base="tiny").number == 1
        with pytest.raises(VerificationFailed):
            writer.push(bad, name, base="tiny")
        assert writer.push(save_adapter(tmp_path / "better", next(SEEDS)), name, base="tiny").number == 2

    def test_other_bytes_than_announced_are_refused_and_the_right_ones_taken_later(
        self, world: World, writer: Client, name: str, adapter: Path
    ) -> None:
        body = publication(writer, adapter, name)
        weights = body.manifest.files[1]
        storage = world.services.artifacts.storage
        lose(storage, weights.sha256)
        with pytest.raises(VerificationFailed, match="never arrived"):
            publish(writer, body)
        with pytest.raises(NotFound):
            writer.get(name)
        assert writer.push(adapter, name, base="tiny").number == 1

    @pytest.mark.parametrize("kind", ["embedded", "http_sqlite"])
    @pytest.mark.parametrize("spoil", [lambda raw: raw[:-1] + b"!", lambda raw: raw[:-1], lambda raw: raw + b"!"])
    def test_bytes_that_were_altered_in_storage_are_found_and_replaced(
        self, request: pytest.FixtureRequest, kind: str, name: str, adapter: Path, spoil: Callable[[bytes], bytes]
    ) -> None:
        # A store in S3 refuses such bytes itself; a folder is open to whoever may write there.
        world: World = request.getfixturevalue(kind)
        world.admin.register_base(base_registration())
        body = publication(world.writer, adapter, name)
        storage = world.services.artifacts.storage
        assert isinstance(storage, FolderStorage)
        (sent,) = names_of(storage, body.manifest.files[1].sha256)
        stored = storage.path_of(sent)
        whole = stored.read_bytes()
        stored.chmod(0o600)
        stored.write_bytes(spoil(whole))
        with pytest.raises(VerificationFailed, match="storage holds other bytes"):
            publish(world.writer, body)
        with pytest.raises(NotFound):
            world.writer.get(name)
        assert world.writer.push(adapter, name, base="tiny").number == 1
        # They lie at another place, since nothing is ever sent again to one that was given up.
        (sent,) = names_of(storage, body.manifest.files[1].sha256)
        assert (storage.path_of(sent) != stored, storage.path_of(sent).read_bytes()) == (True, whole)

    def test_the_row_of_the_same_bytes_is_found_by_an_index_however_many_versions_there_are(
        self, embedded: World, name: str, adapter: Path
    ) -> None:
        with sent(embedded.services.db) as seen:
            embedded.writer.push(adapter, name, base="tiny")
        twins = [one for one in seen if one.sql.startswith("SELECT") and "versions.digest = " in one.sql]
        plans = [line for one in twins for line in plan_of(embedded.services.db, one)]
        assert plans
        assert all("USING INDEX uq_versions_live_digest (adapter_pk=? AND digest=?)" in line for line in plans), plans

    def test_a_row_whose_publisher_died_is_taken_over_by_the_next_push(
        self, world: World, writer: Client, name: str, adapter: Path
    ) -> None:
        body = publication(writer, adapter, name, description="of the dead")
        world.announce(body, world.principal(Role.WRITER))
        assert states_of(world, name) == [("pending", None)]
        with pytest.raises(NotFound):
            writer.get(name)
        version = writer.push(adapter, name, base="tiny", description="of the living")
        assert (version.number, version.info.description) == (1, "of the living")
        assert states_of(world, name) == [("ready", 1)]

    def test_a_refused_push_does_not_take_another_of_the_same_bytes_along(
        self, world: World, writer: Client, name: str, adapter: Path
    ) -> None:
        good = publication(writer, adapter, name)
        who = world.principal(Role.WRITER)
        making = Making(good, who, KnownBases())
        with world.services.db.write() as session:
            ground = making.begin(session)
            making.announce(session, ground)
        world.services.artifacts.verify(upload=good.upload, blobs=blobs_of(good.manifest), who=who)
        # While a slow publisher still reads, one with a wrong record of the same bytes is refused.
        with pytest.raises(VerificationFailed, match="disagree on rank"):
            publish(writer, good.model_copy(update={"lora": good.lora.model_copy(update={"rank": 3})}))
        assert states_of(world, name) == [("failed", None)]
        with world.services.db.write() as session:
            published = making.make_ready(session, ground, [])
            assert (published.version.number, published.existing) == (1, False)
        assert states_of(world, name) == [("failed", None), ("ready", 1)]

    def test_bytes_that_are_known_are_not_read_again(
        self, world: World, writer: Client, name: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = publication(writer, adapter, name)
        publish(writer, body)

        def refuse(stored_as: str) -> Any:
            raise AssertionError(f"{stored_as} was read again")

        monkeypatch.setattr(world.services.artifacts.storage, "open", refuse)
        other = body.model_copy(update={"adapter": f"{name}-again", "upload": None})
        assert publish(writer, other).version.ref == f"{name}-again@v1"
        again = publish(writer, other)
        assert (again.version.ref, again.existing) == (f"{name}-again@v1", True)
        wrong = other.model_copy(update={"adapter": f"{name}-wrong", "lora": body.lora.model_copy(update={"rank": 3})})
        with pytest.raises(VerificationFailed, match="disagree on rank"):
            publish(writer, wrong)
        assert states_of(world, f"{name}-wrong") == [("failed", None)]

    def test_a_quarantined_version_is_not_released_by_pushing_it_again(
        self, world: World, writer: Client, name: str, adapter: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        writer.set_alias(name, "production", 1)
        with world.services.db.write() as session:
            row = session.scalars(select(Version).where(Version.digest == version.digest)).one()
            row.state, row.number = VersionState.QUARANTINED, None
            refresh_document(session, row)
        with pytest.raises(VerificationFailed, match=r"in quarantine.*adapterctl release"):
            writer.push(adapter, name, base="tiny")
        for ref in (name, f"{name}@v1", f"{name}@production"):
            with pytest.raises(NotFound):
                writer.get(ref)
        assert writer.get(f"{name}@sha256:{version.digest}").info.state == "quarantined"

    def test_an_upload_is_of_one_user_and_of_what_it_announced(
        self, world: World, writer: Client, name: str, adapter: Path
    ) -> None:
        body = publication(writer, adapter, name)
        with pytest.raises(NotFound, match="upload session"):
            publish(writer, body.model_copy(update={"upload": "0" * 32}))
        other = writer.upload({hash_file(adapter / "adapter_config.json")[0]: adapter / "adapter_config.json"}, "")
        with pytest.raises(InvalidInput, match="neither announced"):
            publish(writer, body.model_copy(update={"upload": other}))
        if world.has_roles:
            other_writer = world.token(Role.WRITER)
            client = Client(world.url, other_writer)
            with pytest.raises(NotFound, match="upload session"):
                publish(client, body)
            client.close()

    @pytest.mark.parametrize("extra", ["adapter_model.bin", "modeling.py", "sub/optimizer.PT"])
    def test_files_that_can_run_are_refused(self, writer: Client, name: str, adapter: Path, extra: str) -> None:
        body = publication(writer, adapter, name)
        files = [*body.manifest.files, ManifestFile(path=extra, size_bytes=1, sha256=digest(extra))]
        manifest = body.manifest.model_copy(update={"files": files})
        with pytest.raises(VerificationFailed, match="pickled or is code"):
            publish(writer, body.model_copy(update={"manifest": manifest}))

    def test_parents_are_edges_of_the_lineage(self, writer: Client, name: str, adapter: Path, tmp_path: Path) -> None:
        parent = writer.push(adapter, name, base="tiny")
        child = save_adapter(tmp_path / "child", next(SEEDS))
        edge = {"ref": f"{name}@latest", "relation": "continued-from"}
        made = publish(writer, publication(writer, child, name, parents=[edge, edge])).version
        assert [(found.ref, found.relation) for found in made.parents] == [(parent.ref, "continued-from")]
        missing = publication(writer, child, name, parents=[edge | {"ref": f"{name}@v9"}])
        with pytest.raises(NotFound):
            publish(writer, missing)

    def test_a_base_that_nobody_knows_is_not_found(self, writer: Client, name: str, adapter: Path) -> None:
        body = publication(writer, adapter, name)
        manifest = body.manifest.model_copy(update={"base_fingerprint": digest("nowhere")})
        with pytest.raises(NotFound, match="base"):
            publish(writer, body.model_copy(update={"manifest": manifest}))

    def test_what_is_pulled_is_what_was_pushed(self, writer: Client, name: str, adapter: Path, tmp_path: Path) -> None:
        version = writer.push(adapter, name, base="tiny")
        pulled = writer.pull(version.ref, tmp_path / "out")
        weights = "adapter_model.safetensors"
        assert (pulled / weights).read_bytes() == (adapter / weights).read_bytes()
        assert {file.path: hash_file(pulled / file.path) for file in version.info.files} == {
            file.path: (file.sha256, file.size_bytes) for file in version.info.files
        }

    def test_eight_publishers_at_once_get_one_to_eight(
        self, writer: Client, world: World, name: str, tmp_path: Path
    ) -> None:
        bodies = [publication(writer, save_adapter(tmp_path / f"a{n}", next(SEEDS)), name) for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda body: publish(writer, body), bodies))
        assert sorted(found.version.number or 0 for found in made) == list(range(1, 9))
        assert len({found.version.digest for found in made}) == 8
        assert [version.number for version in writer.versions(name)] == list(range(8, 0, -1))

    def test_publishers_of_the_same_bytes_at_once_make_one_version(
        self, writer: Client, world: World, name: str, adapter: Path
    ) -> None:
        bodies = [publication(writer, adapter, name) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda body: publish(writer, body), bodies))
        assert {found.version.ref for found in made} == {f"{name}@v1"}
        assert sorted(found.existing for found in made) == [False, True, True, True]
        assert states_of(world, name) == [("ready", 1)]

    def test_adapters_come_in_pages(self, world: World, writer: Client, name: str, tmp_path: Path) -> None:
        names = [f"{name}-{letter}" for letter in "abc"]
        for seed, each in enumerate(names):
            writer.push(save_adapter(tmp_path / f"{seed}", next(SEEDS)), each, base="tiny")
        first = world.http.get("/api/v1/adapters", params={"prefix": name, "limit": 1}).json()
        page = world.http.get("/api/v1/adapters", params={"prefix": name, "limit": 2, "cursor": first["next"]}).json()
        assert [found["adapter"] for found in page["items"]] == names[1:]


class TestBasesAndData:
    def test_a_base_is_found_by_id_fingerprint_and_prefix(self, writer: Client) -> None:
        fingerprint = digest("tiny: base")
        for each in ("tiny", fingerprint, fingerprint[:12]):
            base = writer.base(each)
            assert (base.fingerprint, base.config) == (fingerprint, {"model_type": "llama", "hidden_size": 6})
        assert "tiny" in {base.id for base in writer.bases()}
        with pytest.raises(NotFound, match="adapterctl base add"):
            writer.base("nobody")

    def test_a_fingerprint_is_no_other_base_that_is_called_so(self, writer: Client) -> None:
        fingerprint = digest("tiny: base")
        for taken in (fingerprint, fingerprint[:12]):
            decoy = base_registration().model_copy(update={"id": taken, "fingerprint": digest("a decoy")})
            with pytest.raises(InvalidInput, match="would be read as a fingerprint"):
                writer.register_base(decoy)
        assert writer.base(fingerprint).id == "tiny"

    def test_one_fingerprint_is_one_base_with_one_set_of_weights(self, writer: Client) -> None:
        registration = base_registration("twice")
        first = writer.register_base(registration)
        again = writer.register_base(registration.model_copy(update={"location": "hf://tests/elsewhere@1"}))
        assert (again.created_at, again.location) == (first.created_at, "hf://tests/elsewhere@1")
        with pytest.raises(Conflict, match="other weights"):
            writer.register_base(registration.model_copy(update={"weights_digest": digest("others")}))

    def test_of_the_bases_that_publications_named_last_nothing_is_read_again(self, world: World, name: str) -> None:
        bases = [world.admin.register_base(base_registration(f"{name}-{number}")) for number in range(3)]
        known, read = KnownBases(keep=2), []
        for number in (0, 1, 0, 2, 0, 1):
            with world.services.db.read() as session:
                with sent(connection_of(session)) as seen:
                    base = known.find(session, bases[number].fingerprint, "team")
                # Whether it has changed since is one look.
                read.append(len(seen) > 1)
                assert (base.brief.id, base.tensors) == (f"{name}-{number}", BASE_TENSORS)
        assert read == [True, True, False, True, False, True]
        with world.services.db.read() as session, pytest.raises(RegistryError, match="adapterctl base add"):
            known.find(session, digest("nobody"), "team")

    def test_a_folder_that_no_worker_shares_is_refused_at_submit(
        self, world: World, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        folder = f"/srv/{name}"
        world.admin.register_base(base_registration(name, location=f"file://{folder}/base"))
        body = submission(name, rows, base=name)
        if world.has_roles:
            with pytest.raises(InvalidBase, match="--upload"):
                submit(writer, body)
        # A worker that announces a folder with the same beginning of its name does not share it.
        claim(world.worker, shared_paths=[folder[:-1]], kinds=["merge"])
        if world.has_roles:
            with pytest.raises(InvalidBase):
                submit(writer, body)
        claim(world.worker, shared_paths=[folder], kinds=["merge"])
        assert submit(writer, body).state == "queued"

    def test_a_dataset_is_its_bytes(self, writer: Client, rows: DatasetView, tmp_path: Path) -> None:
        assert (rows.rows, rows.format, rows.shape) == (2, "jsonl", "prompt-completion")
        origin = writer.locate_data(rows.digest)
        assert (origin.sha256, origin.size_bytes) == (rows.digest, rows.size_bytes)
        assert rows.digest in {found.digest for found in writer.datasets()}
        with pytest.raises(NotFound):
            writer.locate_data(digest("nothing"))


class TestAliases:
    def test_an_alias_moves_by_compare_and_set(self, world: World, writer: Client, name: str, tmp_path: Path) -> None:
        for n in range(2):
            writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny")
        assert writer.set_alias(name, "production", 1, expect=0).number == 1
        with pytest.raises(Conflict, match="names v1, not v0"):
            writer.set_alias(name, "production", 2, expect=0)
        with pytest.raises(Conflict, match="names v1, not v2"):
            writer.set_alias(name, "production", 2, expect=2)
        assert writer.get(f"{name}@production").number == 1
        assert writer.set_alias(name, "production", 2, expect=1, reason="better").number == 2
        assert writer.set_alias(name, "production", 1).number == 1
        with pytest.raises(NotFound):
            writer.set_alias(name, "production", 3)
        assert [(alias.alias, alias.ref) for alias in writer.aliases(name)] == [("production", f"{name}@v1")]
        with world.services.db.read() as session:
            moves = session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.pk.desc()).limit(3)).all()
        assert [(move.from_number, move.to_number, move.reason) for move in reversed(moves)] == [
            (None, 1, ""),
            (1, 2, "better"),
            (2, 1, ""),
        ]

    @pytest.mark.parametrize("alias", ["latest", "v3", "sha256-x", "Prod", "a b", ""])
    def test_names_with_a_meaning_are_no_aliases(self, world: World, name: str, alias: str) -> None:
        answer = world.http.put("/api/v1/aliases", json={"adapter": name, "alias": alias, "number": 1})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "alias")

    def test_one_of_many_movers_with_the_same_expectation_wins(self, writer: Client, name: str, tmp_path: Path) -> None:
        for n in range(5):
            writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny")

        def move(number: int, expect: int) -> int | None:
            try:
                return writer.set_alias(name, "production", number, expect=expect).number
            except Conflict:
                return None

        for expect in (0, 1):
            with ThreadPoolExecutor(4) as pool:
                won = [found for found in pool.map(lambda n, e=expect: move(n, e), range(2, 6)) if found]
            assert len(won) == 1
            assert writer.get(f"{name}@production").number == won[0]
            writer.set_alias(name, "production", 1)

    def test_a_mover_that_comes_second_by_a_hair_has_lost(
        self, world: World, writer: Client, name: str, tmp_path: Path
    ) -> None:
        for n in range(2):
            writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny")
        with ThreadPoolExecutor(1) as pool:
            with world.services.db.write() as session:
                find_adapter(session, name, SYSTEM, lock=True)
                first = session.scalars(select(Version).join(Adapter).where(Adapter.name == name, Version.number == 1))
                version = first.one()
                session.add(Alias(adapter_pk=version.adapter_pk, name="live", version_pk=version.pk, moved_by="x"))
                session.flush()
                second = pool.submit(writer.set_alias, name, "live", 2, expect=0)
                # Long enough for it to have seen that there is no such alias, where it can look at all.
                time.sleep(0.3)
            with pytest.raises(Conflict, match="names v1"):
                second.result()
        assert writer.get(f"{name}@live").number == 1

    def test_movers_that_expect_nothing_all_succeed(self, writer: Client, name: str, tmp_path: Path) -> None:
        for n in range(4):
            writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny")
        for _ in range(3):
            with ThreadPoolExecutor(4) as pool:
                moved = list(pool.map(lambda number: writer.set_alias(name, "staging", number).number, range(1, 5)))
            assert moved == [1, 2, 3, 4]
        assert writer.get(f"{name}@staging").number in moved


class TestJobs:
    def test_one_key_is_one_job(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        body = submission(name, rows)
        first = submit(writer, body, key=name)
        assert submit(writer, body, key=name).id == first.id
        with pytest.raises(Conflict, match="another request"):
            submit(writer, submission(name, rows, rank=3), key=name)
        assert submit(writer, body, key=f"{name}-b").id != first.id
        for key in ("", "x" * 201):
            with pytest.raises(InvalidInput):
                submit(writer, body, key=key)
        assert submit(writer, body).id != submit(writer, body).id

    def test_one_key_used_at_once_is_one_job(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        with ThreadPoolExecutor(6) as pool:
            jobs = list(pool.map(lambda _: submit(writer, submission(name, rows), key=name), range(6)))
        assert len({job.id for job in jobs}) == 1

    def test_what_does_not_exist_is_refused_at_submit(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        with pytest.raises(NotFound, match="dataset"):
            submit(writer, submission(name, rows.model_copy(update={"digest": digest("none")})))
        with pytest.raises(NotFound, match="base"):
            submit(writer, submission(name, rows, base="missing"))
        with pytest.raises(NotFound):
            writer.submit_merge(f"{name}@v1")
        assert writer.jobs(state="queued") == []

    def test_claim_heartbeat_complete_makes_a_version(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        worker = quiet.worker
        job = writer.job(submit(writer, submission(name, rows)).id)
        held = claim(worker)
        assert held is not None
        assert (held.job, held.attempt, held.datasets) == (job.id, 1, {rows.digest: "jsonl"})
        assert held.base is not None
        assert held.base.location == f"hf://tests/tiny@{'0' * 40}"
        assert claim(worker) is None
        progress = Progress(phase="train", step=3, total=10, loss=2.5)
        reply = beat(worker, held, NewEvent(kind="progress", progress=progress), NewEvent(kind="log", message="hello"))
        assert (reply.cancel, reply.lease_s) == (False, 60.0)
        assert (job.state, job.view.worker, job.view.progress) == ("running", "w1", progress)
        body = trained(worker, adapter, name, rows)
        done = complete(worker, held, version=body)
        assert done.state == "succeeded"
        assert done.result == {
            "ref": f"{name}@v1",
            "digest": body.manifest.digest,
            "existing": False,
            "metrics": {"loss": 1.25},
        }
        version = job.result()
        assert (version.ref, version.info.metrics) == (f"{name}@v1", {"loss": 1.25})
        assert version.info.job is not None
        assert (version.info.job.id, version.info.job.attempt) == (job.id, 1)
        # The answer may be lost and the worker ask again: nothing more happens.
        assert complete(worker, held, version=body).result == done.result
        assert [found.number for found in writer.versions(name)] == [1]
        assert [event.state for event in job.events() if event.kind == "state"] == ["queued", "running", "succeeded"]
        with pytest.raises(StaleAttempt):
            beat(worker, held)

    def test_a_job_that_makes_bytes_that_exist_succeeds_with_them(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        writer.push(adapter, name, base="tiny")
        submit(writer, submission(name, rows))
        held = claim(quiet.worker)
        assert held is not None
        done = complete(quiet.worker, held, version=trained(quiet.worker, adapter, name, rows))
        assert done.result is not None
        assert (done.result["ref"], done.result["existing"]) == (f"{name}@v1", True)

    def test_a_refused_result_leaves_the_job_to_its_worker(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        job = submit(writer, submission(name, rows))
        held = claim(quiet.worker)
        assert held is not None
        body = trained(quiet.worker, adapter, name, rows)
        for wrong in ({}, {"version": body.model_copy(update={"adapter": f"{name}-b"})}, {"evaluations": []}):
            with pytest.raises(InvalidInput):
                complete(quiet.worker, held, **wrong)
        assert writer.job_view(job.id).state == "running"
        assert complete(quiet.worker, held, version=body).state == "succeeded"

    def test_an_attempt_that_lost_its_lease_changes_nothing(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, tmp_path: Path
    ) -> None:
        worker = quiet.worker
        job = writer.job(submit(writer, submission(name, rows)).id)
        stale = quiet.impatient.claims.claim(
            claim=ClaimRequest(worker=worker_info("sleepy")), who=quiet.principal(Role.WORKER)
        )
        assert stale is not None
        late = trained(worker, save_adapter(tmp_path / "late", next(SEEDS)), name, rows)
        time.sleep(SHORT_LEASE_S + 0.05)
        held = claim(worker, name="awake")
        assert held is not None
        assert (held.job, held.attempt) == (job.id, 2)
        before = [event.seq for event in job.events()]
        with pytest.raises(StaleAttempt):
            beat(worker, stale, NewEvent(kind="log", message="I am back"))
        with pytest.raises(StaleAttempt):
            fail(worker, stale, "internal")
        with pytest.raises(StaleAttempt):
            complete(worker, stale, version=late)
        assert [event.seq for event in job.events()] == before
        with pytest.raises(NotFound):
            writer.get(name)
        assert writer.job_view(job.id).worker == "awake"
        done = complete(worker, held, version=trained(worker, save_adapter(tmp_path / "good", next(SEEDS)), name, rows))
        assert done.state == "succeeded"
        with pytest.raises(StaleAttempt):
            complete(worker, stale, version=late)
        assert [found.number for found in writer.versions(name)] == [1]

    def test_a_lease_that_ends_while_the_result_is_verified_publishes_nothing(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        services = quiet.impatient
        submit(writer, submission(name, rows))
        stale = services.claims.claim(claim=ClaimRequest(worker=worker_info("slow")), who=quiet.principal(Role.WORKER))
        assert stale is not None
        body = trained(quiet.worker, adapter, name, rows)
        publisher = services.publisher
        verify = services.artifacts.verify

        class Slow:
            """Reads the bytes for so long that another worker is given the job meanwhile."""

            def verify(self, **given: Any) -> Any:
                found = verify(**given)
                time.sleep(SHORT_LEASE_S + 0.05)
                assert claim(quiet.worker, name="awake") is not None
                return found

            def known(self, *given: Any, **named: Any) -> None:
                """Nothing: every byte is to be read."""

        publisher._artifacts = Slow()  # type: ignore[assignment]
        try:
            with pytest.raises(RegistryError, match="no longer holds"):
                services.claims.complete(
                    job_id=stale.job,
                    completion=Completion(attempt=stale.attempt, version=body),
                    who=quiet.principal(Role.WORKER),
                )
        finally:
            publisher._artifacts = services.artifacts
        with pytest.raises(NotFound):
            writer.get(name)
        assert states_of(quiet, name) == [("failed", None)]
        assert writer.push(adapter, name, base="tiny").number == 1

    def test_a_lost_worker_is_tried_again_until_it_is_given_up(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        for attempt in (1, 2, 3):
            held = quiet.impatient.claims.claim(
                claim=ClaimRequest(worker=worker_info()), who=quiet.principal(Role.WORKER)
            )
            assert held is not None
            assert held.attempt == attempt
            time.sleep(SHORT_LEASE_S + 0.05)
        assert claim(quiet.worker) is None
        with pytest.raises(JobFailed, match="vanished in each of 3 attempts") as caught:
            job.wait(5)
        assert caught.value.reason == "worker_lost"

    def test_a_heartbeat_keeps_the_lease(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        submit(writer, submission(name, rows))
        held = quiet.impatient.claims.claim(claim=ClaimRequest(worker=worker_info()), who=quiet.principal(Role.WORKER))
        assert held is not None
        # Renewed by a process whose leases are long.
        beat(quiet.worker, held)
        time.sleep(SHORT_LEASE_S + 0.05)
        assert claim(quiet.worker) is None
        assert fail(quiet.worker, held, "data").state == "failed"

    def test_looking_for_lost_workers_at_once_requeues_once(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        assert (
            quiet.impatient.claims.claim(claim=ClaimRequest(worker=worker_info()), who=quiet.principal(Role.WORKER))
            is not None
        )
        time.sleep(SHORT_LEASE_S + 0.05)
        with ThreadPoolExecutor(6) as pool:
            moved = list(pool.map(lambda _: quiet.services.claims.requeue_expired(), range(6)))
        assert sum(moved) == 1
        assert [event.message for event in job.events()].count("its worker fell silent") == 1

    def test_a_heartbeat_under_way_wins_over_the_look_for_lost_workers(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = submit(writer, submission(name, rows))
        assert (
            quiet.impatient.claims.claim(claim=ClaimRequest(worker=worker_info()), who=quiet.principal(Role.WORKER))
            is not None
        )
        time.sleep(SHORT_LEASE_S + 0.05)
        with ThreadPoolExecutor(1) as pool:
            with quiet.services.db.write() as session:
                session.execute(update(Job).where(Job.id == job.id).values(lease_until_s=db_epoch_s() + 60))
                looking = pool.submit(quiet.services.claims.requeue_expired)
                # Long enough for the look to have seen the lease as it was, and to wait for the row.
                time.sleep(0.3)
            assert looking.result() == 0
        assert (writer.job_view(job.id).state, writer.job_view(job.id).attempt) == ("running", 1)

    def test_many_claims_at_once_get_one_job_each(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        jobs = {submit(writer, submission(name, rows)).id for _ in range(5)}
        with ThreadPoolExecutor(8) as pool:
            held = list(pool.map(lambda n: claim(quiet.worker, name=f"w{n}"), range(8)))
        given = [each.job for each in held if each is not None]
        assert sorted(given) == sorted(jobs)

    def test_a_job_whose_version_is_gone_fails_and_stops_nobody(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        lost = writer.submit_merge(version.ref, priority=9)
        second = submit(writer, submission(name, rows))
        with quiet.services.db.write() as session:
            row = session.scalars(select(Version).where(Version.digest == version.digest)).one()
            row.state = VersionState.DELETED
        held = claim(quiet.worker)
        assert held is not None
        assert held.job == second.id
        with pytest.raises(JobFailed, match="was deleted") as caught:
            lost.wait(5)
        assert caught.value.reason == "gone"

    def test_a_claim_prefers_priority_then_cached_base_then_hint_then_age(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        quiet.admin.register_base(base_registration("cached"))
        old = submit(writer, submission(name, rows))
        hinted = submit(writer, submission(name, rows))
        cached = submit(writer, submission(name, rows, base="cached"))
        urgent = submit(writer, submission(name, rows, priority=5))
        order = [
            held.job
            for _ in range(4)
            if (held := claim(quiet.worker, hint=hinted.id, cached_bases=[digest("cached: base")])) is not None
        ]
        assert order == [urgent.id, cached.id, hinted.id, old.id]

    def test_a_worker_gets_only_the_kinds_that_it_does(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = submit(writer, submission(name, rows))
        assert claim(quiet.worker, kinds=["merge", "evaluation"]) is None
        held = claim(quiet.worker, kinds=["training"])
        assert held is not None
        assert held.job == job.id

    def test_cancelling_a_waiting_job_ends_it_at_once(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        assert job.cancel().state == "cancelled"
        assert job.cancel().state == "cancelled"
        assert [event.state for event in job.events()] == ["queued", "cancelled"]
        assert claim(quiet.worker) is None
        with pytest.raises(JobCancelled):
            job.wait(5)

    def test_cancelling_a_running_job_asks_its_worker(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        held = claim(quiet.worker)
        assert held is not None
        assert beat(quiet.worker, held).cancel is False
        assert job.cancel().state == "running"
        assert beat(quiet.worker, held).cancel is True
        assert fail(quiet.worker, held, "cancelled", "stopped").state == "cancelled"
        assert job.cancel().state == "cancelled"

    def test_a_cancelled_job_whose_worker_vanished_is_not_tried_again(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        assert (
            quiet.impatient.claims.claim(claim=ClaimRequest(worker=worker_info()), who=quiet.principal(Role.WORKER))
            is not None
        )
        job.cancel()
        time.sleep(SHORT_LEASE_S + 0.05)
        assert claim(quiet.worker) is None
        assert job.state == "cancelled"

    @pytest.mark.parametrize("reason", ["data", "spec", "diverged", "internal"])
    def test_a_failure_keeps_its_reason(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, reason: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        held = claim(quiet.worker)
        assert held is not None
        fail(quiet.worker, held, reason, "line 3 has no prompt")
        with pytest.raises(JobFailed, match="line 3 has no prompt") as caught:
            job.wait(5)
        assert caught.value.reason == reason
        with pytest.raises(StaleAttempt):
            fail(quiet.worker, held, reason)

    def test_events_are_read_by_a_cursor(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        job = submit(writer, submission(name, rows))
        held = claim(quiet.worker)
        assert held is not None
        beat(quiet.worker, held, *(NewEvent(kind="log", message=str(n)) for n in range(5)))
        every = writer.job_events(job.id)
        assert [event.message for event in every][2:] == ["0", "1", "2", "3", "4"]
        assert [event.seq for event in every] == sorted({event.seq for event in every})
        assert writer.job_events(job.id, after=every[3].seq) == every[4:]
        page = quiet.http.get(f"/api/v1/jobs/{job.id}/events", params={"after": every[0].seq, "limit": 2}).json()
        assert [event["seq"] for event in page] == [event.seq for event in every[1:3]]
        # A reader that waits is answered as soon as something happens.
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(writer.job_events, job.id, after=every[-1].seq, wait_s=10)
            time.sleep(0.1)
            began = time.monotonic()
            fail(quiet.worker, held, "internal")
            assert [event.state for event in waiting.result()] == ["failed"]
            assert time.monotonic() - began < 5
        assert writer.job_events(job.id, after=2**40, wait_s=10) == []

    def test_an_evaluation_is_kept_for_what_was_asked(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path, tmp_path: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        data = tmp_path / "rows.jsonl"
        data.write_text('{"text": "a"}\n')
        job = writer.submit_evaluation([f"{name}@latest", "base:tiny"], data=data)
        held = claim(quiet.worker)
        assert held is not None
        assert [target.label for target in held.targets] == [version.ref, "base:tiny"]
        report = EvaluationReport(metrics={"loss": 1.5}, precision="float32")

        def result(label: str, found: str | None, base: str = "tiny") -> EvaluationResult:
            return EvaluationResult(label=label, digest=found, base_fingerprint=digest(f"{base}: base"), report=report)

        bare = result("base:tiny", None)
        for wrong in (
            [result(version.ref, version.digest)],
            [result(version.ref, digest("another")), bare],
            [result(version.ref, version.digest, base="cached"), bare],
            [bare, result(version.ref, version.digest)],
        ):
            with pytest.raises(InvalidInput):
                complete(quiet.worker, held, evaluations=wrong)
        assert (
            complete(quiet.worker, held, evaluations=[result(version.ref, version.digest), bare]).state == "succeeded"
        )
        kept = job.result()
        assert [(found.ref, found.metrics) for found in kept] == [
            (version.ref, {"loss": 1.5}),
            ("base:tiny", {"loss": 1.5}),
        ]
        assert [found.ref for found in version.evaluations] == [version.ref]
        assert "base:tiny" in {found.ref for found in writer.evaluations(base=digest("tiny: base"))}

    def test_a_merge_is_kept_by_its_digest(
        self, quiet: World, writer: Client, name: str, adapter: Path, tmp_path: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        job = writer.submit_merge(name)
        held = claim(quiet.worker)
        assert held is not None
        assert held.targets[0].manifest == version.info.manifest
        model = tmp_path / "model.safetensors"
        model.write_bytes(name.encode() * 100)
        sha256, size = hash_file(model)
        manifest = Manifest(
            kind="merged",
            base_fingerprint=digest("tiny: base"),
            files=[ManifestFile(path="model.safetensors", size_bytes=size, sha256=sha256)],
        )
        merged = MergeResult(
            manifest=manifest,
            upload=quiet.worker.upload({sha256: model}, ""),
            report=MergeReport(onto="original", dtype="float32", metrics={"merged_modules": 2.0}),
        )
        assert complete(quiet.worker, held, merge=merged).state == "succeeded"
        saved = job.result().save(tmp_path / "saved")
        assert (saved / "model.safetensors").read_bytes() == model.read_bytes()


class TestStrictness:
    """Bodies are taken as they are or refused; nothing is coerced, and nothing that is refused is a 500."""

    def training(self, rows: DatasetView, **spec: Any) -> dict[str, Any]:
        request: dict[str, Any] = submission("strict", rows).request.model_dump(mode="json")
        request["spec"] |= spec
        return {"request": request}

    @pytest.mark.parametrize(
        ("spec", "param"),
        [
            ({"rank": False}, "rank"),
            ({"rank": "8"}, "rank"),
            ({"rank": 8.0}, "rank"),
            ({"rank": 0}, "rank"),
            ({"alpha": "16"}, "alpha"),
            ({"lr": True}, "lr"),
            ({"rnak": 8}, "rnak"),
            ({"targets": ["q_proj"]}, "targets"),
            ({"targets": "q_proj;rm"}, "targets"),
        ],
    )
    def test_values_of_another_type_are_refused_by_name(
        self, world: World, rows: DatasetView, spec: dict[str, Any], param: str
    ) -> None:
        answer = world.http.post("/api/v1/jobs", json=self.training(rows, **spec))
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "param"}
        assert error["code"] == "invalid"
        assert error["param"].endswith(f"spec.{param}")

    @pytest.mark.parametrize(
        "text",
        [
            '{"a": NaN}',
            '{"a": Infinity}',
            '{"a": 1e400}',
            '{"a": -1e999}',
            '{"a": 99999999999999999999}',
            '{"a": "x\\u0000y"}',
            '{"\\u0000": 1}',
            '{"a": "\\ud800"}',
            '{"a": ["\\udc00"]}',
            '{"a": 1, "a": 2}',
            '{"a": ' + "[" * 300 + "]" * 300 + "}",
            "[" * 90_000 + "]" * 90_000,
            '{"a": ' + "9" * 5000 + "}",
            '{"a": 1',
            "",
            "null",
            "[]",
            '"x"',
            '{"a": 1} {"b": 2}',
            "{'a': 1}",
        ],
        ids=lambda text: text[:20],
    )
    def test_json_that_means_nothing_is_invalid(self, world: World, text: str) -> None:
        registration = base_registration("free").model_dump_json()
        # In a free dictionary, where no field would refuse it.
        for body in (text, registration.replace('{"model_type":"llama","hidden_size":6}', text or "?")):
            answer = world.http.post("/api/v1/bases", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["code"] == "invalid"

    @pytest.mark.parametrize("body", [b"\xff\xfe{\x00}\x00", b'{"a": "\xff"}', b'\xef\xbb\xbf{"a": 1}'])
    def test_other_encodings_are_invalid(self, world: World, body: bytes) -> None:
        answer = world.http.post("/api/v1/bases", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")

    def test_a_body_that_is_too_large_is_invalid(self, world: World) -> None:
        for path, limit_bytes in (("jobs", MAX_BODY_BYTES), ("bases", 4 * 2**20), ("jobs/x/complete", 4 * 2**20)):
            pieces = [b'{"a": "', *[b"x" * 2**16] * (limit_bytes // 2**16), b'"}']
            within = b"".join(pieces[:-2]) + b'"}'
            answer = world.http.post(f"/api/v1/{path}", content=within, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
            self.is_too_large(world, path, pieces)

    def is_too_large(self, world: World, path: str, pieces: list[bytes]) -> None:
        # With its length declared, and over HTTP in chunks of a length that nobody knows.
        for content in (b"".join(pieces), iter(pieces))[: 1 + world.has_roles]:
            answer = world.http.post(f"/api/v1/{path}", content=content, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
            assert "larger" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        "said",
        [
            None,
            b"",
            b"text/plain",
            b"application/json\xa0",
            b"application/json;charset=utf-16",
            b"application/json; charset=utf-8; charset=latin-1",
            b"application/json, application/json",
            b"application/merge-patch+json",
            b"application/x-www-form-urlencoded",
        ],
        ids=repr,
    )
    def test_a_body_that_is_not_called_json_is_refused(self, world: World, said: bytes | None) -> None:
        if said is not None and not world.has_roles and not said.isascii():
            pytest.skip("WSGI keeps no such header")
        headers = [] if said is None else [(b"Content-Type", said)]
        twice = b'{"blobs": [], "blobs": []}'
        answer = world.http.post("/api/v1/uploads", content=twice, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert "Content-Type: application/json" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        "said",
        [
            b"application/json",
            b"Application/JSON",
            b'application/json ; charset="UTF-8"',
            b"application/json;charset=utf-8",
        ],
    )
    def test_json_by_each_of_its_names_is_checked(self, world: World, said: bytes) -> None:
        headers = {b"Content-Type": said}
        answer = world.http.post("/api/v1/uploads", content=b'{"blobs": [], "blobs": []}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
        assert "twice" in answer.json()["error"]["message"]
        answer = world.http.post("/api/v1/uploads", content=b'{"blobs": []}', headers=headers)
        assert answer.json()["error"]["param"] == "blobs"

    def test_two_content_types_are_refused(self, guarded: World) -> None:
        headers = [(b"Content-Type", b"application/json"), (b"Content-Type", b"text/plain")]
        answer = guarded.http.post("/api/v1/uploads", content=b'{"blobs": []}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")

    def test_a_body_that_no_route_reads_is_checked_too(self, world: World) -> None:
        answer = world.http.request("DELETE", "/api/v1/bases", content=b"<xml/>")
        assert answer.status_code == 415
        assert world.http.post("/api/v1/jobs/x/cancel", content=b"").status_code == 404

    @pytest.mark.parametrize("key", ["unknown", "blobs"])
    def test_a_body_with_many_faults_is_refused_in_little_time(self, world: World, key: str) -> None:
        path, values = ("versions", "0,") if key == "unknown" else ("uploads", "{},")
        body = f'{{"{key}": [{(values * 45_000)[:-1]}]}}'
        began = time.monotonic()
        answer = world.http.post(f"/api/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        assert time.monotonic() - began < 3
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
        assert len(answer.content) < 2000

    @pytest.mark.parametrize(
        "path",
        [
            "/base?name=%00",
            "/resolve?ref=a%00",
            "/versions?adapter=%00",
            "/adapters?after=%00",
            "/evaluations?digest=%00",
            "/jobs/%00",
            "/jobs/a%00/events",
            "/datasets/%00/file",
            "/manifests/%00/files",
            "/jobs?limit=0",
            "/jobs?limit=999999999999999999999",
            "/jobs?state=lost",
            "/jobs/x/events?after=99999999999999999999",
            "/jobs/x/events?wait_s=nan",
            "/base?name=%ED%A0%80",
            "/base",
        ],
    )
    def test_queries_that_mean_nothing_are_refused(self, world: World, path: str) -> None:
        answer = world.http.get(f"/api/v1{path}")
        assert answer.status_code in (404, 422), answer.text
        assert set(answer.json()["error"]) == {"code", "message", "param"}

    def test_numbers_that_no_column_holds_are_refused(self, world: World, rows: DatasetView) -> None:
        dataset = {"digest": rows.digest, "size_bytes": rows.size_bytes, "format": "jsonl", "upload": "x"}
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/datasets", dataset | {"rows": 2**70}),
            ("/datasets", dataset | {"size_bytes": 2**62}),
            ("/jobs/x/heartbeat", {"attempt": 2**70}),
            ("/jobs/x/fail", {"attempt": 2**40, "reason": "data", "message": ""}),
            ("/uploads", {"blobs": [{"sha256": rows.digest, "size_bytes": 2**63}]}),
            ("/jobs/claim", {"worker": worker_info().model_dump() | {"memory_bytes": 2**64}}),
        ]
        for path, body in bodies:
            answer = world.http.post(f"/api/v1{path}", json=body)
            assert 400 <= answer.status_code < 500, (path, answer.text)
            assert "error" in answer.json()

    def test_texts_that_no_column_holds_are_refused_or_kept(self, world: World) -> None:
        body = {"worker": worker_info().model_dump() | {"version": "9" * 5000, "kinds": []}}
        # SQLite keeps what PostgreSQL has no room for; neither fails.
        assert world.http.post("/api/v1/jobs/claim", json=body).status_code in (204, 422)

    def test_what_is_not_there_answers_as_an_error_does(self, world: World) -> None:
        for method, path, status in (("GET", "/api/v1/nothing", 404), ("DELETE", "/api/v1/bases", 405)):
            answer = world.http.request(method, path)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"code", "message", "param"}

    def test_every_answer_says_its_version(self, world: World) -> None:
        for path in ("/healthz", "/readyz", "/api/v1/bases", "/api/v1/nothing"):
            assert world.http.get(path).headers["X-Adapterctl-Version"]
        assert world.http.get("/readyz").json()["status"] == "ready"


class TestRoles:
    def test_a_reader_reads_and_no_more(self, guarded: World, adapter: Path, name: str) -> None:
        guarded.admin.register_base(base_registration())
        reader = guarded.client(Role.READER)
        version = guarded.writer.push(adapter, name, base="tiny")
        assert reader.get(name).digest == version.digest
        assert reader.pull(name).is_dir()
        for act in (
            lambda: reader.push(adapter, name, base="tiny"),
            lambda: reader.set_alias(name, "production", 1),
            lambda: reader.register_base(base_registration()),
            lambda: reader.cancel_job("x"),
            lambda: claim(reader),
        ):
            with pytest.raises(NotAllowed) as caught:
                act()
            assert caught.value.exit_code == 5
        reader.close()

    @pytest.mark.parametrize(
        ("role", "allowed"),
        [(Role.READER, False), (Role.WRITER, False), (Role.PROMOTER, False), (Role.WORKER, True), (Role.ADMIN, True)],
    )
    def test_only_workers_claim(self, guarded: World, role: Role, allowed: bool) -> None:
        client = guarded.client(role)
        if allowed:
            claim(client, kinds=["merge"])
        else:
            for act in (
                lambda: claim(client),
                lambda: client.call("POST", "/jobs/x/heartbeat", HeartbeatReply, body=Heartbeat(attempt=1)),
                lambda: client.call("POST", "/jobs/x/complete", JobView, body=Completion(attempt=1)),
            ):
                with pytest.raises(NotAllowed, match="role of: admin, worker"):
                    act()
        client.close()

    @pytest.mark.parametrize("token", [None, "actl_wrong", "actl_\u00e9"])
    def test_without_a_valid_token_nothing_is_told(self, guarded: World, token: str | None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
        for path in ("/api/v1/bases", "/api/v1/resolve?ref=a", "/api/v1/jobs", "/api/v1/evaluations"):
            answer = guarded.http.get(path, headers={"Authorization": "", **headers})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")

    def test_a_revoked_token_is_worthless_at_once(self, guarded: World) -> None:
        made = guarded.services.tokens.create(name="gone", grants={"*": Role.READER}, who=SYSTEM)
        client = Client(guarded.url, made.secret)
        client.bases()
        guarded.services.tokens.revoke(made.id, who=SYSTEM)
        time.sleep(TRUST_S)
        with pytest.raises(Unauthenticated):
            client.bases()
        client.close()

    def test_bytes_stream_past_the_limit_of_bodies(self, http_sqlite: World, tmp_path: Path) -> None:
        big = tmp_path / "big"
        with big.open("wb") as file:
            file.truncate(MAX_BODY_BYTES + 1)
        sha256, size = hash_file(big)
        http_sqlite.writer.upload({sha256: big}, "uploading")
        storage = http_sqlite.services.artifacts.storage
        (sent,) = names_of(storage, sha256)
        stored = storage.stat(sent)
        assert stored is not None
        assert stored.size_bytes == size

    def test_signed_urls_are_the_only_way_to_bytes(self, guarded: World, adapter: Path, name: str) -> None:
        guarded.admin.register_base(base_registration())
        version = guarded.writer.push(adapter, name, base="tiny")
        for origin in guarded.writer.locate(version.digest):
            assert origin.url.startswith("http://127.0.0.1:")
            bare, _, query = origin.url.partition("?")
            assert httpx.get(bare).status_code == 403
            assert httpx.get(f"{bare}?{query[:-2]}00").status_code == 403
            assert httpx.get(origin.url).status_code == 200


def test_the_tiny_adapter_is_what_the_base_says() -> None:
    shapes = {key: value.shape for key, value in lora_tensors().items()}
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    assert [*BASE_TENSORS["model.layers.0.self_attn.q_proj.weight"]] == [
        shapes[f"{prefix}.lora_B.weight"][0],
        shapes[f"{prefix}.lora_A.weight"][1],
    ]
    assert all(np.isfinite(value).all() for value in lora_tensors().values())
    assert json.dumps(sorted(shapes))
