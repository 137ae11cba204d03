"""Every single changed byte and every shorter length of a small artifact is caught: on upload, on pull, by `verify`.

A soak takes every position; a short run takes some that its seed chooses, and always the ends.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

import httpx
import numpy as np
import pytest
from support import registries
from support.adapters import base_registration, save_adapter
from support.registries import World
from support.soak import SOAKING

from registry.principal import Role
from sdk import config
from sdk.client import Client
from sdk.errors import AdapterctlError, NotFound, VerificationFailed
from sdk.pulling.folder import verify_folder
from sdk.pushing.pack import pack_adapter
from sdk.schemas.artifacts import BlobSpec, Transfer, UploadRequest, UploadView
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.manifest import Manifest, ManifestFile

pytestmark = pytest.mark.soak

SEED = 20_260
#: q_proj and v_proj of this base at rank 2 make weights of a little more than 10,000 bytes.
WIDTH = 320
TENSORS = {f"model.layers.0.self_attn.{module}.weight": [WIDTH, WIDTH] for module in ("q_proj", "v_proj")}


@dataclass(frozen=True)
class Damage:
    """One way in which a file is not what it was."""

    file: ManifestFile
    #: Which byte is another one, or how many are left.
    at: int
    #: What the byte is changed by; 0: the file ends here.
    mask: int

    def of(self, content: bytes) -> bytes:
        """Return the damaged file."""
        if not self.mask:
            return content[: self.at]
        return content[: self.at] + bytes([content[self.at] ^ self.mask]) + content[self.at + 1 :]

    def __str__(self) -> str:
        what = f"byte {self.at} changed by {self.mask:#04x}" if self.mask else f"cut to {self.at} bytes"
        return f"{self.file.path}: {what} (seed {SEED})"


@dataclass(frozen=True)
class Artifact:
    """A small adapter: what is said of it, and its files by path."""

    folder: Path
    publication: Publication
    files: dict[str, bytes]

    @property
    def manifest(self) -> Manifest:
        """Of the files."""
        return self.publication.manifest

    def damages(self, how_many: int, *, cuts: bool) -> list[Damage]:
        """So many damages, all there are at most; the first and the last position of each file are always among them."""
        random = Random(f"{SEED} {cuts}")
        places = [(file, at) for file in self.manifest.files for at in range(file.size_bytes)]
        assert len(places) >= 10_000
        ends = [place for place in places if place[1] in {0, place[0].size_bytes - 1}]
        if how_many < len(places):
            places = sorted({*ends, *random.sample(places, how_many)}, key=lambda place: (place[0].path, place[1]))
        return [Damage(file, at, 0 if cuts else random.randrange(1, 256)) for file, at in places]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The adapter, as a push would send it."""
    folder = tmp_path_factory.mktemp("artifact")
    save_adapter(folder / "adapter", tensors=_tensors())
    staging = folder / "staging"
    staging.mkdir()
    base = base_registration(tensors=TENSORS)
    packed = pack_adapter(
        folder / "adapter",
        base_id=base.id,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        staging=staging,
    )
    files = {file.path: packed.sources[file.sha256].read_bytes() for file in packed.manifest.files}
    publication = Publication(adapter="small", upload="x" * 32, manifest=packed.manifest, lora=packed.lora)
    return Artifact(folder / "adapter", publication, files)


def _tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(SEED)
    shapes = {"lora_A": (2, WIDTH), "lora_B": (WIDTH, 2)}
    return {
        f"base_model.model.model.layers.0.self_attn.{module}.{part}.weight": random.normal(size=shape).astype("float32")
        for module in ("q_proj", "v_proj")
        for part, shape in shapes.items()
    }


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[World]:
    """A registry that knows the base: in this process, or behind HTTP."""
    with registries.embedded(folder / "home") if kind == "embedded" else registries.served(folder) as world:
        world.admin.bases.register(base_registration(tensors=TENSORS))
        yield world


@pytest.fixture(scope="module", params=["embedded", "served"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


NAMES = (f"flips-{n}" for n in itertools.count(1))


def begin(client: Client, artifact: Artifact) -> UploadView:
    blobs = [BlobSpec(sha256=file.sha256, size_bytes=file.size_bytes) for file in artifact.manifest.files]
    return client.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs))


def publish(client: Client, artifact: Artifact, name: str, upload: str) -> Published:
    body = artifact.publication.model_copy(update={"adapter": name, "upload": upload})
    return client.call("POST", "/versions", Published, body=body)


def shows_nothing(client: Client, name: str) -> bool:
    """Whether an adapter has no version that anybody could see."""
    try:
        return client.versions(name) == []
    except NotFound:
        return True


def stored_path(put: Transfer) -> Path:
    """Where a `file:` location leads."""
    return Path(unquote(urlsplit(put.url).path))


# On upload.


@pytest.mark.parametrize("cuts", [False, True], ids=["flips", "cuts"])
@pytest.mark.timeout(3600)
def test_what_lies_in_storage_must_be_what_was_announced(artifact: Artifact, cuts: bool, tmp_path: Path) -> None:
    with opened("embedded", tmp_path) as world:
        _announce_and_store(world, artifact, artifact.damages(11_000 if SOAKING else 100, cuts=cuts))


def _announce_and_store(world: World, artifact: Artifact, damages: list[Damage]) -> None:
    client, name = world.writer, next(NAMES)
    contents = {file.sha256: artifact.files[file.path] for file in artifact.manifest.files}
    paths: dict[str, Path] = {}
    for damage in damages:
        # What was found damaged is sent anew, to another place; all else lies where it was sent before.
        session = begin(client, artifact)
        paths |= {put.sha256: stored_path(put) for put in session.put}
        for sha256, path in paths.items():
            path.write_bytes(damage.of(contents[sha256]) if sha256 == damage.file.sha256 else contents[sha256])
        with pytest.raises(VerificationFailed) as caught:
            publish(client, artifact, name, session.id)
        assert damage.file.sha256[:12] in caught.value.message, damage
    assert shows_nothing(client, name)
    # It was the damage: whole, the same bytes are a version.
    session = begin(client, artifact)
    paths |= {put.sha256: stored_path(put) for put in session.put}
    for sha256, path in paths.items():
        path.write_bytes(contents[sha256])
    assert publish(client, artifact, name, session.id).version.digest == artifact.manifest.digest


@pytest.mark.parametrize("cuts", [False, True], ids=["flips", "cuts"])
@pytest.mark.timeout(3600)
def test_other_bytes_than_announced_are_not_taken_in(artifact: Artifact, cuts: bool, tmp_path: Path) -> None:
    with opened("served", tmp_path) as world:
        _announce_and_send(world, artifact, artifact.damages(11_000 if SOAKING else 100, cuts=cuts))


def _announce_and_send(world: World, artifact: Artifact, damages: list[Damage]) -> None:
    writer, name = world.writer, next(NAMES)
    session = begin(writer, artifact)
    puts = {put.sha256: put for put in session.put}
    with httpx.Client(timeout=30) as http:
        for damage in damages:
            put = puts[damage.file.sha256]
            body = damage.of(artifact.files[damage.file.path])
            assert http.put(put.url, content=body, headers=_but_length(put)).status_code in {400, 403}, damage
    with pytest.raises(VerificationFailed):
        publish(writer, artifact, name, session.id)
    assert shows_nothing(writer, name)


def _but_length(put: Transfer) -> dict[str, str]:
    """A location's headers; httpx says the length of what is sent, which here may be another one."""
    return {key: value for key, value in put.headers.items() if key.lower() != "content-length"}


# On pull.


@pytest.mark.parametrize("cuts", [False, True], ids=["flips", "cuts"])
@pytest.mark.timeout(3600)
def test_what_was_altered_in_storage_is_not_pulled(
    world: World, artifact: Artifact, cuts: bool, tmp_path: Path
) -> None:
    name = next(NAMES)
    ref = world.writer.push(artifact.folder, name, base="tiny").ref
    paths = {file.sha256: _found_in(world.folder / "artifacts", file.sha256) for file in artifact.manifest.files}
    for damage in artifact.damages(11_000 if SOAKING else 40, cuts=cuts):
        whole = artifact.files[damage.file.path]
        paths[damage.file.sha256].write_bytes(damage.of(whole))
        cache, user = tmp_path / "cache", tmp_path / "user"
        client = _reader(world, cache)
        try:
            with pytest.raises(AdapterctlError) as caught:
                client.pull(ref, user / "adapter")
        finally:
            client.close()
        assert isinstance(caught.value, VerificationFailed), f"{damage}: {caught.value!r}"
        if not cuts:
            _names_file_and_digest(caught.value, damage)
        assert _is_empty(user), damage
        paths[damage.file.sha256].write_bytes(whole)
        shutil.rmtree(cache, ignore_errors=True)
    client = _reader(world, tmp_path / "last")
    try:
        assert verify_folder(client.pull(ref, tmp_path / "whole")).digest == artifact.manifest.digest
    finally:
        client.close()


def _reader(world: World, cache: Path) -> Client:
    """A client with a cache of its own."""
    if not world.has_roles:
        return Client(cache=cache, transport=registries.InProcess(config.load(world.url), world.app))
    return Client(world.url, _token(world), cache=cache)


TOKENS: dict[str, str] = {}


def _token(world: World) -> str:
    if world.url not in TOKENS:
        TOKENS[world.url] = world.token(Role.READER)
    return TOKENS[world.url]


def _found_in(root: Path, sha256: str) -> Path:
    (path,) = [path for path in root.rglob(f"{sha256}*") if path.is_file()]
    return path


def _is_empty(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def _names_file_and_digest(error: VerificationFailed, damage: Damage) -> None:
    """An error about wrong bytes says which file they were to be, which digest it has and which they have."""
    assert damage.file.path in error.message, error
    assert damage.file.sha256 in error.message, error
    assert len(re.findall(r"\b[0-9a-f]{64}\b", error.message)) == 2, error


# By `verify`.


@pytest.fixture
def pulled(artifact: Artifact, tmp_path: Path) -> Path:
    with opened("embedded", tmp_path) as world:
        ref = world.writer.push(artifact.folder, next(NAMES), base="tiny").ref
        return world.writer.pull(ref, tmp_path / "pulled", base_name="keep")


@pytest.mark.parametrize("cuts", [False, True], ids=["flips", "cuts"])
def test_verify_finds_it_in_a_pulled_folder(pulled: Path, artifact: Artifact, cuts: bool) -> None:
    for damage in artifact.damages(11_000 if SOAKING else 300, cuts=cuts):
        path, whole = pulled / damage.file.path, artifact.files[damage.file.path]
        path.write_bytes(damage.of(whole))
        with pytest.raises(VerificationFailed) as caught:
            verify_folder(pulled)
        _names_file_and_digest(caught.value, damage)
        path.write_bytes(whole)
    assert verify_folder(pulled).digest == artifact.manifest.digest


@pytest.mark.parametrize("cuts", [False, True], ids=["flips", "cuts"])
def test_a_marker_that_was_altered_is_never_taken_for_the_version_s(
    pulled: Path, artifact: Artifact, cuts: bool
) -> None:
    marker = pulled / ".adapterctl" / "manifest.json"
    whole = marker.read_bytes()
    random = Random(SEED)
    for at in range(len(whole)):
        changed = whole[:at] if cuts else whole[:at] + bytes([whole[at] ^ random.randrange(1, 256)]) + whole[at + 1 :]
        marker.write_bytes(changed)
        try:
            digest = verify_folder(pulled).digest
        except AdapterctlError:
            continue
        # Another fingerprint of the base, say, makes another manifest: a digest or a signature tells.
        assert digest != artifact.manifest.digest, f"marker, byte {at} (seed {SEED})"
    marker.write_bytes(whole)
    assert verify_folder(pulled).digest == artifact.manifest.digest
