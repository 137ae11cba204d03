"""Upload sessions: large files in parts, what is interrupted goes on, and what admission refuses may be put away."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import registries
from support.adapters import base_registration, lora_tensors, save_adapter
from support.calls import announce as begin
from support.calls import packed
from support.calls import place_of_part as ask
from support.fixtures import S3Place
from support.registries import World
from support.stored import names_of

from registry.principal import Role
from registry.storage import open_storage
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotFound, Unavailable, VerificationFailed
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import BlobSpec, UploadView
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.manifest import ManifestFile

PART_BYTES = 5 * 1024 * 1024
PARTS = 5


@pytest.fixture(params=["folder", "s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A registry behind HTTP that takes large files in small parts."""
    url = (tmp_path / "artifacts").as_uri()
    storage = None
    if request.param == "s3":
        place: S3Place = request.getfixturevalue("s3")
        url, storage = place.url, open_storage(place.url, s3=place.options, part_bytes=PART_BYTES)
    with registries.served(
        tmp_path / "registry",
        database_url=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
        storage_url=url,
        storage=storage,
        part_bytes=PART_BYTES,
    ) as world:
        world.admin.bases.register(base_registration())
        yield world


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of several parts, the last of which is short."""
    path = tmp_path / "big.safetensors"
    path.write_bytes(os.urandom((PARTS - 1) * PART_BYTES + 12_345))
    return path


def verify(world: World, path: Path, upload: str) -> None:
    sha256, size = hash_file(path)
    blobs = [BlobSpec(sha256=sha256, size_bytes=size)]
    world.services.artifacts.verify(upload=upload, blobs=blobs, who=world.principal(Role.WRITER))


class Counting:
    """Stands before a client's calls, counts the parts that it asks for, and breaks off after some."""

    def __init__(self, client: Client, *, breaks_after: int | None = None) -> None:
        self._call = client.transport.call
        self._breaks_after = breaks_after
        self.asked: list[int] = []
        client.transport.call = self  # type: ignore[method-assign]
        self._client = client

    def __call__(self, method: str, path: str, reply: Any, **given: Any) -> Any:
        if path.endswith("/parts"):
            if self._breaks_after is not None and len(self.asked) >= self._breaks_after:
                raise KeyboardInterrupt
            self.asked += [part.number for part in given["body"].parts]
        return self._call(method, path, reply, **given)

    def stop(self) -> None:
        self._client.transport.call = self._call  # type: ignore[method-assign]


class TestParts:
    def test_a_large_file_goes_in_parts_and_is_whole(self, world: World, big: Path) -> None:
        counting = Counting(world.writer)
        upload = world.writer.uploader.upload({hash_file(big)[0]: big}, "uploading")
        counting.stop()
        assert sorted(counting.asked) == list(range(1, PARTS + 1))
        verify(world, big, upload)
        (name,) = names_of(world.services.artifacts.storage, hash_file(big)[0])
        with world.services.artifacts.storage.open(name) as chunks:
            assert b"".join(chunks) == big.read_bytes()

    def test_an_interrupted_upload_sends_what_is_missing_and_no_more(self, world: World, big: Path) -> None:
        counting = Counting(world.writer, breaks_after=3)
        with pytest.raises(KeyboardInterrupt):
            world.writer.uploader.upload({hash_file(big)[0]: big}, "uploading")
        counting.stop()
        # What was asked for was also sent: the pool lets running transfers end.
        (left,) = begin(world.writer, big).parts
        assert len(left.missing) == PARTS - 3
        again = Counting(world.writer)
        upload = world.writer.uploader.upload({hash_file(big)[0]: big}, "uploading")
        again.stop()
        assert sorted(again.asked) == left.missing
        verify(world, big, upload)
        # A third time there is nothing to send.
        session = begin(world.writer, big)
        assert (session.put, session.parts) == ([], [])

    def test_a_session_with_a_part_missing_makes_nothing(self, world: World, big: Path) -> None:
        session = begin(world.writer, big)
        with pytest.raises(Exception, match="5 of 5 parts of"):
            verify(world, big, session.id)
        assert names_of(world.services.artifacts.storage, hash_file(big)[0]) == []

    def test_parts_of_other_bytes_make_no_file(self, world: World, big: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(bytes(big.stat().st_size))
        session = begin(world.writer, big)
        # Each part is what it says; only the whole is not.
        send_parts(world.writer, session, other)
        with pytest.raises(Exception, match="storage has other bytes than were announced"):
            verify(world, big, session.id)
        assert names_of(world.services.artifacts.storage, hash_file(big)[0]) == []
        upload = world.writer.uploader.upload({hash_file(big)[0]: big}, "uploading")
        verify(world, big, upload)

    def test_parts_belong_to_who_began(self, world: World, big: Path) -> None:
        session = begin(world.writer, big)
        sha256 = hash_file(big)[0]
        stranger = world.client(Role.WRITER)
        with pytest.raises(NotFound):
            ask(stranger, session.id, sha256, 1, b"x")
        with pytest.raises(InvalidInput, match="has no part"):
            ask(world.writer, session.id, sha256, PARTS + 1, b"x")
        with pytest.raises(InvalidInput, match="not sent in parts"):
            ask(world.writer, session.id, "ab" * 32, 1, b"x")
        (theirs,) = begin(stranger, big).parts
        assert theirs.missing == list(range(1, PARTS + 1))
        stranger.close()

    def test_many_send_one_file_at_once(self, world: World, big: Path) -> None:
        sha256 = hash_file(big)[0]
        others = [world.client(Role.WRITER) for _ in range(2)]
        clients = [*others, world.writer, world.writer]
        with ThreadPoolExecutor() as pool:
            uploads = list(pool.map(lambda client: client.uploader.upload({sha256: big}, "uploading"), clients))
        for client, upload in zip(clients, uploads, strict=True):
            who = world.services.tokens.check(client.config.token)
            blobs = [BlobSpec(sha256=sha256, size_bytes=big.stat().st_size)]
            world.services.artifacts.verify(upload=upload, blobs=blobs, who=who)
        for client in others:
            client.close()
        # The copies of those who came later are gone.
        assert len(names_of(world.services.artifacts.storage, sha256)) == 1


def send_parts(client: Client, session: UploadView, source: Path) -> None:
    """Send the parts of another file in the place of the announced one."""
    import httpx

    (blob,) = session.parts
    content = source.read_bytes()
    for number in blob.missing:
        part = content[(number - 1) * blob.part_bytes : number * blob.part_bytes]
        to = ask(client, session.id, blob.sha256, number, part)
        assert httpx.put(to.url, content=part, headers=to.headers).is_success


class TestQuarantine:
    def test_what_admission_refuses_is_reached_by_its_digest_alone(self, strict: World, tmp_path: Path) -> None:
        idle = {key: value * (0 if "lora_B" in key else 1) for key, value in lora_tensors(7).items()}
        folder = save_adapter(tmp_path / "idle", tensors=idle)
        with pytest.raises(VerificationFailed, match=r"changes nothing.*adapterctl release (\S+)") as caught:
            strict.writer.push(folder, "team/idle", base="tiny")
        ref = caught.value.message.rpartition(" ")[2]
        found = strict.writer.get(ref)
        assert (found.info.state, found.number) == ("quarantined", None)
        assert "changes nothing" in (found.info.refusal or "")
        for elsewhere in ("team/idle", "team/idle@latest", "team/idle@v1"):
            with pytest.raises(NotFound):
                strict.writer.get(elsewhere)
        with pytest.raises((NotFound, Conflict)):
            strict.writer.set_alias("team/idle", "production", 1)
        with pytest.raises(NotFound):
            strict.writer.versions("team/idle")
        assert strict.writer.pull(ref, tmp_path / "looked-at").is_dir()
        # Pushed again it is where it was, and is said again.
        with pytest.raises(VerificationFailed, match="changes nothing"):
            strict.writer.push(folder, "team/idle", base="tiny")
        # Its bytes stay as long as it does.
        admin = strict.client(Role.ADMIN)
        admin.retention.gc(dry_run=False, grace_hours=0)
        released = admin.versions.release(ref, reason="looked at by hand")
        assert released.ref == "team/idle@v1"
        assert [entry.action for entry in admin.audit(subject=ref)] == ["version.quarantine"]
        assert strict.writer.pull("team/idle@v1", tmp_path / "released").is_dir()
        admin.close()

    @pytest.mark.parametrize("spoil", ["nan", "code", "cut"])
    def test_what_is_malformed_or_runs_is_never_kept(self, strict: World, tmp_path: Path, spoil: str) -> None:
        tensors = lora_tensors(8)
        if spoil == "nan":
            first = next(iter(tensors))
            tensors[first] = np.full_like(tensors[first], np.nan)
        folder = save_adapter(tmp_path / "bad", tensors=tensors)
        client, name = strict.writer, f"bad-{uuid.uuid4().hex[:8]}"
        with pytest.raises((VerificationFailed, InvalidInput)):
            push_raw(client, folder, name, spoil)
        admin = strict.client(Role.ADMIN)
        assert admin.search("state = quarantined") == []
        admin.close()


def push_raw(client: Client, folder: Path, name: str, spoil: str) -> None:
    """Push past what the SDK itself would drop or refuse."""
    package = packed(folder)
    sources = dict(package.sources)
    files = {file.path: file for file in package.manifest.files}
    for path, of in (("adapter_config.json", "code"), ("adapter_model.safetensors", "cut")):
        if spoil != of:
            continue
        source = folder.parent / f"spoiled-{path}"
        content = sources.pop(files[path].sha256).read_bytes()
        if of == "code":
            content = json.dumps({**json.loads(content), "auto_mapping": {"base_model_class": "x.Y"}}).encode()
        source.write_bytes(content[:-1] if of == "cut" else content)
        sha256, size = hash_file(source)
        sources[sha256] = source
        files[path] = ManifestFile(path=path, size_bytes=size, sha256=sha256)
    manifest = package.manifest.model_copy(update={"files": list(files.values())})
    upload = client.uploader.upload(sources, "uploading")
    body = Publication(adapter=name, upload=upload, manifest=manifest, lora=package.lora)
    client.call("POST", "/versions", Published, body=body)


def test_a_store_that_is_away_is_tried_again_and_then_said(
    world: World, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("sdk.pushing.upload.time.sleep", waited.append)
    real: Callable[..., Any] = world.writer.transport.call
    dead = "http://127.0.0.1:9/nothing?sig=secret"

    def away(method: str, path: str, reply: Any, **given: Any) -> Any:
        answer = real(method, path, reply, **given)
        return [to.model_copy(update={"url": dead}) for to in answer] if path.endswith("/parts") else answer

    monkeypatch.setattr(world.writer.transport, "call", away)
    with pytest.raises(Unavailable, match="can't be reached") as caught:
        world.writer.uploader.upload({hash_file(big)[0]: big}, "uploading")
    assert "secret" not in str(caught.value)
    assert len(waited) == 4
    assert waited == sorted(waited) or max(waited) > 2 * min(waited)
