"""Bytes that race, break, come late or twice: what is ready stays whole, and nobody gets more than is theirs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from support import registries
from support.adapters import base_registration, lora_tensors, save_adapter
from support.calls import place_of_part as ask
from support.fixtures import S3Place
from support.keys import make_key
from support.payloads import Payload, make_payload
from support.people import new_adapter
from support.registries import World, named_anew
from support.stored import lose, names_of

from registry.artifacts.models import Blob, UploadBlob
from registry.ops import doctor
from registry.principal import Role
from registry.storage import FolderStorage, StorageUnavailable, open_storage
from sdk.client import Client
from sdk.errors import AdapterctlError, QuotaExceeded, VerificationFailed
from sdk.pulling.transfer import hash_file
from sdk.pushing.upload import _run, send_all
from sdk.schemas.artifacts import (
    BlobSpec,
    InParts,
    SignatureView,
    SignedManifest,
    Transfer,
    UploadRequest,
    UploadView,
)
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.signing import sign

PART_BYTES = 5 * 1024 * 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A registry behind HTTP over a folder, with small parts."""
    with registries.served(tmp_path / "registry", part_bytes=PART_BYTES) as found:
        found.admin.bases.register(base_registration())
        yield found


@pytest.fixture
def admin(world: World) -> Iterator[Client]:
    client = world.client(Role.ADMIN)
    yield client
    client.close()


def storage_of(world: World) -> FolderStorage:
    return world.services.artifacts.storage


def begin(client: Client, blobs: list[BlobSpec]) -> UploadView:
    return client.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs))


def push(client: Client, payload: Payload, adapter: str, **said: Any) -> Published:
    session = begin(client, payload.blobs)
    for put in session.put:
        assert httpx.put(put.url, content=payload.files[put.sha256], headers=put.headers).is_success
    return client.call("POST", "/versions", Published, body=payload.publication(adapter, session.id, **said))


def put_parts(storage: FolderStorage, name: str, parts: list[bytes]) -> str:
    parts_id = storage.begin_parts(name)
    folder = storage._parts_of(name, parts_id)
    for number, part in enumerate(parts, start=1):
        (folder / str(number)).write_bytes(part)
    return parts_id


def seeded() -> Payload:
    mark = uuid.uuid4().hex
    return make_payload(int(mark[:8], 16), marked=mark + "0" * 8)


class TestFolderParts:
    def test_a_second_join_beside_the_first_never_shortens_the_blob(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first has renamed and takes the parts away, one by one; the second lists what is left of them."""
        storage = FolderStorage(tmp_path, public_url="http://x", signing_key=b"k" * 32)
        parts = [b"a" * 10, b"b" * 10, b"c" * 3]
        whole = b"".join(parts)
        name = f"{hashlib.sha256(whole).hexdigest()}.{'0' * 32}"
        parts_id = put_parts(storage, name, parts)
        digests = {number: hashlib.sha256(part).hexdigest() for number, part in enumerate(parts, start=1)}
        real, raced = shutil.rmtree, []

        def slowly(folder: Path, **how: Any) -> None:
            if not raced:
                raced.append(True)
                # Two of the three are unlinked when the other process, which had seen all three, lists them to join.
                for path in sorted(Path(folder).iterdir())[:2]:
                    path.unlink()
                with contextlib.suppress(Exception):
                    storage.join_parts(name, parts_id, digests)
            real(folder, ignore_errors=True)

        monkeypatch.setattr("registry.storage.folder.shutil.rmtree", slowly)
        storage.join_parts(name, parts_id, digests)
        assert storage.path_of(name).read_bytes() == whole

    def test_a_part_that_comes_too_late_is_no_fault_of_the_server(self, world: World) -> None:
        content = os.urandom(2 * PART_BYTES)
        sha256 = hashlib.sha256(content).hexdigest()
        session = begin(world.writer, [BlobSpec(sha256=sha256, size_bytes=len(content))])
        to = ask(world.writer, session.id, sha256, 1, content[:PART_BYTES])

        def body() -> Iterator[bytes]:
            yield content[: PART_BYTES // 2]
            time.sleep(1)
            (folder,) = [path for path in storage_of(world)._files() if ".parts-" in path.name]
            # As joining or sweeping does.
            shutil.rmtree(folder)
            yield content[PART_BYTES // 2 : PART_BYTES]

        answer = httpx.put(to.url, content=body(), headers={"Content-Length": str(PART_BYTES)}, timeout=30)
        assert answer.status_code == 404


class TestParts:
    def test_going_on_with_larger_parts_makes_the_file(self, world: World, tmp_path: Path) -> None:
        """An operator raises REGISTRY_PART_BYTES while somebody's upload is interrupted."""
        big = tmp_path / "big"
        big.write_bytes(os.urandom(4 * PART_BYTES + 5))
        sha256, size = hash_file(big)
        blob = BlobSpec(sha256=sha256, size_bytes=size)
        session = begin(world.writer, [blob])
        content = big.read_bytes()
        for number in (1, 4, 5):
            part = content[(number - 1) * PART_BYTES : number * PART_BYTES]
            to = ask(world.writer, session.id, sha256, number, part)
            assert httpx.put(to.url, content=part, headers=to.headers).is_success
        storage_of(world).part_bytes = 2 * PART_BYTES
        upload = world.writer.uploader.upload({sha256: big}, "uploading")
        world.services.artifacts.verify(upload=upload, blobs=[blob], who=world.principal(Role.WRITER))

    def test_what_a_live_session_has_sent_is_not_abandoned(self, world: World, admin: Client) -> None:
        content = os.urandom(2 * PART_BYTES)
        sha256 = hashlib.sha256(content).hexdigest()
        blob = BlobSpec(sha256=sha256, size_bytes=len(content))
        session = begin(world.writer, [blob])
        to = ask(world.writer, session.id, sha256, 1, content[:PART_BYTES])
        assert httpx.put(to.url, content=content[:PART_BYTES], headers=to.headers).is_success
        (folder,) = [path for path in storage_of(world)._files() if ".parts-" in path.name]
        two_hours_ago = time.time() - 7200
        os.utime(folder, (two_hours_ago, two_hours_ago))
        # The session lives for 24 hours; whole blobs that it announced are kept by the same run.
        admin.retention.gc(dry_run=False, grace_hours=0)
        (left,) = begin(world.writer, [blob]).parts
        assert left.missing == [2]


class TestStoredBytes:
    def test_one_bad_read_does_not_destroy_a_ready_versions_bytes(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payload = seeded()
        version = push(world.writer, payload, "a").version
        weights = next(file.sha256 for file in payload.manifest.files if file.path.endswith(".safetensors"))
        storage = storage_of(world)
        with world.services.db.write() as session:
            # As blobs are that came as a base's or a dataset's file, or before there were facts.
            session.execute(update(Blob).where(Blob.sha256 == weights).values(facts=None))
        real = storage.open

        @contextlib.contextmanager
        def flipped(name: str) -> Iterator[Iterator[bytes]]:
            with real(name) as chunks:
                yield (bytes([chunk[0]]) + chunk[1:-1] + bytes([chunk[-1] ^ 1]) for chunk in chunks)

        monkeypatch.setattr(storage, "open", flipped)
        with pytest.raises(VerificationFailed):
            world.writer.call("POST", "/versions", Published, body=payload.publication("b", None))
        monkeypatch.setattr(storage, "open", real)
        assert version.number == 1
        assert names_of(storage, weights) != []

    def test_lost_bytes_come_back_with_whoever_sends_them_again(self, world: World) -> None:
        payload = seeded()
        one = world.client(Role.WRITER, namespace="one")
        two = world.client(Role.WRITER, namespace="two")
        push(one, payload, "one/a")
        for sha256 in payload.files:
            lose(storage_of(world), sha256)
        try:
            assert push(two, payload, "two/a").version.number == 1
            for sha256, content in payload.files.items():
                with world.services.artifacts.reading(sha256) as kept:
                    assert kept.read(len(content) + 1) == content
        finally:
            one.close()
            two.close()

    def test_a_session_that_opens_while_its_place_is_given_up_has_what_lies_elsewhere(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payload = seeded()
        with monkeypatch.context() as at_once:
            # Two that open together find nothing that the other has begun, so each sends to a place of its own.
            at_once.setattr("registry.artifacts.uploads._begun", lambda *_: {})
            first, second = begin(world.writer, payload.blobs), begin(world.writer, payload.blobs)
        for put in (*first.put, *second.put):
            assert httpx.put(put.url, content=payload.files[put.sha256], headers=put.headers).is_success
        with world.services.db.read() as session:
            begun = {
                blob.sha256: (blob.stored_as, blob.parts_id)
                for blob in session.scalars(select(UploadBlob).where(UploadBlob.upload_id == second.id))
            }
        artifacts, who = world.services.artifacts, world.principal(Role.WRITER)
        artifacts.verify(upload=first.id, blobs=payload.blobs, who=who)
        opened: list[UploadView] = []
        discard = artifacts._discard

        def discard_late(*given: Any, **said: Any) -> None:
            # It has looked for what was begun a moment ago: it is told that all has arrived, where it is given up now.
            if not opened:
                with monkeypatch.context() as a_moment_ago:
                    a_moment_ago.setattr("registry.artifacts.uploads._begun", lambda *_: begun)
                    opened.append(begin(world.writer, payload.blobs))
            discard(*given, **said)

        monkeypatch.setattr(artifacts, "_discard", discard_late)
        artifacts.verify(upload=second.id, blobs=payload.blobs, who=who)
        (late,) = opened
        assert late.put == []
        artifacts.verify(upload=late.id, blobs=payload.blobs, who=who)

    def test_a_file_stands_in_a_manifest_with_one_size(self, world: World) -> None:
        payload = seeded()
        config, weights = payload.manifest.files
        lie = ManifestFile(path="a-first.json", size_bytes=config.size_bytes + 7, sha256=config.sha256)
        manifest = Manifest(base_fingerprint=payload.manifest.base_fingerprint, files=[config, weights, lie])
        body = replace(payload, manifest=manifest).publication("a", None)
        session = begin(world.writer, payload.blobs)
        for put in session.put:
            assert httpx.put(put.url, content=payload.files[put.sha256], headers=put.headers).is_success
        lying = body.model_copy(update={"upload": session.id, "manifest": manifest})
        try:
            found = world.writer.call("POST", "/versions", Published, body=lying)
        except AdapterctlError:
            return
        # What is ready can be pulled.
        world.writer.pull(found.version.ref, world.folder / "pulled")


class TestQuarantine:
    def test_it_is_no_way_around_a_quota(self, strict: World, tmp_path: Path) -> None:
        admin = strict.client(Role.ADMIN)
        admin.quotas.set("team", max_bytes=1, max_adapters=0)
        idle = {key: value * (0 if "lora_B" in key else 1) for key, value in lora_tensors(7).items()}
        folder = save_adapter(tmp_path / "idle", tensors=idle)
        try:
            with pytest.raises(QuotaExceeded):
                strict.writer.push(folder, "team/idle", base="tiny")
            assert admin.search("state = quarantined") == []
        finally:
            admin.close()

    def test_a_quarantined_version_is_no_success(self, strict: World) -> None:
        """The first push says the wrong thing of good bytes; the second says the right one."""
        payload = seeded()
        good = payload.publication("team/a", None)
        wrong = good.lora.model_copy(update={"alpha": good.lora.alpha + 1})
        with pytest.raises(VerificationFailed):
            push(strict.writer, payload, "team/a", lora=wrong)
        try:
            found = push(strict.writer, payload, "team/a")
        except AdapterctlError:
            return
        assert (found.version.state, found.version.lora.alpha) == ("ready", good.lora.alpha)


class TestSignatures:
    def test_who_writes_elsewhere_takes_no_signature_away(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ADAPTERCTL_SIGNING_KEY", raising=False)
        ours, theirs = make_key(tmp_path / "ours"), make_key(tmp_path / "theirs")
        grants = {"team": Role.READER, "else": Role.WRITER}
        token = named_anew(world.services.tokens, "mallory", grants, who=world.principal(Role.ADMIN))
        mallory = Client(world.url, token.secret, cache=tmp_path / "cache-m")
        version = world.writer.push(new_adapter(tmp_path), "team/a", base="tiny", sign=ours.private)
        (genuine,) = world.writer.signatures(version.digest)
        said = {"adapter": "else/copy", "manifest": version.info.manifest, "lora": version.info.lora}
        try:
            mallory.call("POST", "/versions", Published, body=Publication.model_validate(said))
            bad = SignedManifest(key_id=genuine.key_id, bundle=sign(version.info.manifest, theirs.private).bundle)
            with contextlib.suppress(AdapterctlError):
                mallory.call("POST", f"/manifests/{version.digest}/signatures", SignatureView, body=bad)
        finally:
            mallory.close()
        found = [row.bundle for row in world.writer.signatures(version.digest) if row.key_id == genuine.key_id]
        assert genuine.bundle in found


class TestDoctor:
    def test_a_store_that_forbids_a_look_is_a_finding_and_no_crash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = FolderStorage(tmp_path)

        def forbidden(name: str) -> None:
            raise StorageUnavailable("The bucket 'b' answered 403 (AccessDenied) to HeadObject.")

        monkeypatch.setattr(storage, "stat", forbidden)
        with httpx.Client() as http:
            findings = list(doctor._storage(storage, http, lambda _s: storage))
        assert any(finding.outcome == "failed" for finding in findings)

    def test_a_bucket_that_went_away_is_said_in_the_storages_words(self, s3: S3Place) -> None:
        with (
            closing(open_storage("s3://no-such-bucket-at-all", s3=s3.options)) as storage,
            pytest.raises(StorageUnavailable),
        ):
            list(storage.list())


class TestSending:
    def test_ctrl_c_begins_nothing_more(self) -> None:
        done: list[int] = []

        def work(number: int) -> Callable[[Any], None]:
            def run(_client: Any) -> None:
                time.sleep(0.2)
                done.append(number)

            return run

        main = threading.main_thread().ident
        import signal

        threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            _run([work(number) for number in range(40)])
        assert len(done) <= 12

    def test_an_upload_that_moves_on_is_not_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each connection lives for one part of many."""
        monkeypatch.setattr("sdk.pushing.upload.time.sleep", lambda _s: None)
        source = tmp_path / "source"
        source.write_bytes(bytes(12))
        sha256, size = hash_file(source)
        missing = list(range(1, 13))
        turns = []

        def begun() -> UploadView:
            turns.append(len(missing))
            parts = [InParts(sha256=sha256, size_bytes=size, part_bytes=1, missing=list(missing))] if missing else []
            return UploadView(id="u", put=[], parts=parts)

        lock = threading.Lock()

        def send(_client: Any, _source: Path, offset: int, *_: Any) -> None:
            from sdk.pushing.upload import _Interrupted

            with lock:
                if missing and offset + 1 == missing[0] and len(missing) == turns[-1]:
                    missing.pop(0)
                    return
            raise _Interrupted("cut")

        monkeypatch.setattr("sdk.pushing.upload._send", send)
        send_all(
            {sha256: source},
            begin=begun,
            ask_part=lambda *_: Transfer(sha256=sha256, size_bytes=1, url="http://x"),
            on_bytes=lambda _count: None,
        )


class TestService:
    def test_a_slow_storage_does_not_stop_what_needs_none(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Publishers that wait for their turn to read hold no thread of other requests."""
        payloads = [seeded() for _ in range(45)]
        bodies = []
        for number, payload in enumerate(payloads):
            session = begin(world.writer, payload.blobs)
            for put in session.put:
                assert httpx.put(put.url, content=payload.files[put.sha256], headers=put.headers).is_success
            bodies.append(payload.publication(f"a{number}", session.id))
        storage, answers = world.services.artifacts.storage, threading.Event()
        opens = storage.open

        def slowly(name: str) -> Any:
            answers.wait(30)
            return opens(name)

        monkeypatch.setattr(storage, "open", slowly)
        headers = {"Authorization": f"Bearer {world.writer.config.token}"}

        def publish(body: Publication) -> None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(
                    f"{world.url}/api/v1/versions",
                    content=body.model_dump_json(),
                    headers=headers | {"Content-Type": "application/json"},
                    timeout=20,
                )

        with ThreadPoolExecutor(45) as pool:
            for body in bodies:
                pool.submit(publish, body)
            time.sleep(5)
            try:
                assert httpx.get(f"{world.url}/healthz", timeout=5).status_code == 200
            finally:
                answers.set()
