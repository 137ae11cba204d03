"""A digest is not a proof of possession: who knows that of another's private file gets nothing by it, whatever is tried."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.adapters import base_registration, digest
from support.payloads import Payload, make_payload
from support.people import SEEDS, training
from support.registries import World

from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration, DatasetView, UploadRequest, UploadView
from sdk.schemas.catalog import BaseView, Published
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.manifest import Manifest, ManifestFile

#: What the registry may say to somebody who has not sent the bytes.
REFUSED = (InvalidInput, NotFound, VerificationFailed)


@dataclass(frozen=True)
class Party:
    """Somebody with a namespace, in which nobody else may read."""

    client: Client
    space: str

    @property
    def adapter(self) -> str:
        """A name in the namespace."""
        return f"{self.space}/adapter"

    def begin(self, blobs: list[BlobSpec]) -> UploadView:
        """Announce blobs."""
        return self.client.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs))

    def publish(self, payload: Payload, upload: str | None, adapter: str = "") -> Published:
        """Make a version of an upload."""
        body = payload.publication(adapter or self.adapter, upload)
        return self.client.call("POST", "/versions", Published, body=body)

    def push(self, payload: Payload) -> Published:
        """Announce, send, publish."""
        session = self.begin(payload.blobs)
        assert set(send(session, payload).values()) <= {200, 201}
        return self.publish(payload, session.id)

    def pull(self, ref: str, to: Path) -> dict[str, bytes]:
        """Fetch a version into a new folder through a new cache; return its files."""
        with_new_cache = Client(self.client.config.url, self.client.config.token, cache=to.parent / f"cache-{to.name}")
        try:
            folder = with_new_cache.pull(ref, to, base_name="keep")
        finally:
            with_new_cache.close()
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def has_nothing_of(self, payload: Payload) -> bool:
        """Whether no way leads to the files of a payload, nor to a version of it."""
        tries: list[Callable[[], object]] = [
            lambda: self.client.versions.locate(payload.digest),
            lambda: self.client.get(f"{self.adapter}@sha256:{payload.digest}"),
            lambda: self.client.get(self.adapter),
            *(lambda blob=blob: self.client.datasets.locate(blob.sha256) for blob in payload.blobs),
            *(lambda blob=blob: self.client.versions.locate(blob.sha256) for blob in payload.blobs),
        ]
        for attempt in tries:
            with pytest.raises(NotFound):
                attempt()
        try:
            return not self.client.versions(self.adapter)
        except NotFound:
            return True


def send(session: UploadView, payload: Payload, changed: Callable[[bytes], bytes] = bytes) -> dict[str, int]:
    """Send what a session asks for, through `changed`; return the statuses by digest."""
    statuses = {}
    for put in session.put:
        # The length is that of what is sent, whatever was announced.
        headers = {name: value for name, value in put.headers.items() if name.lower() != "content-length"}
        body = changed(payload.files[put.sha256])
        statuses[put.sha256] = httpx.put(put.url, content=body, headers=headers, timeout=30).status_code
    return statuses


def asked(session: UploadView) -> set[str]:
    """The digests that a session wants to be sent."""
    return {put.sha256 for put in session.put}


@pytest.fixture
def payload() -> Payload:
    """Files that nobody else has: config and weights."""
    seed = next(SEEDS)
    return make_payload(seed, marked=f"{seed:040x}")


@pytest.fixture
def join(people: World) -> Iterator[Callable[..., Party]]:
    """Return a function that lets somebody in, as writer of a new namespace."""
    opened: list[Client] = []

    def let_in(name: str, space: str = "") -> Party:
        space = space or f"team-{uuid.uuid4().hex[:12]}"
        token = people.services.tokens.create(name=name, grants={space: Role.WRITER}, who=LOCAL)
        opened.append(Client(people.url, token.secret, cache=people.folder / f"cache-{name}"))
        return Party(opened[-1], space)

    yield let_in
    for client in opened:
        client.close()


@pytest.fixture
def owner(join: Callable[..., Party]) -> Party:
    return join(f"owner-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def stranger(join: Callable[..., Party]) -> Party:
    return join(f"stranger-{uuid.uuid4().hex[:8]}")


class TestPossession:
    def test_who_may_read_it_need_not_send_it_again(self, owner: Party, payload: Payload) -> None:
        version = owner.push(payload).version
        session = owner.begin(payload.blobs)
        assert asked(session) == set()
        again = owner.publish(payload, session.id)
        assert (again.existing, again.version.ref) == (True, version.ref)
        other = owner.publish(payload, session.id, adapter=f"{owner.space}/other")
        assert other.existing is False

    def test_announcing_a_known_digest_saves_no_byte_and_gives_none(
        self, owner: Party, stranger: Party, payload: Payload
    ) -> None:
        owner.push(payload)
        session = stranger.begin(payload.blobs)
        assert asked(session) == set(payload.files)
        with pytest.raises(REFUSED):
            stranger.publish(payload, session.id)
        assert stranger.has_nothing_of(payload)
        # Nor does a location to send to show what lies elsewhere under the same digest.
        for put in session.put:
            assert httpx.get(put.url, headers={}).status_code in {403, 404}

    def test_a_manifest_without_an_upload_gives_nothing(self, owner: Party, stranger: Party, payload: Payload) -> None:
        owner.push(payload)
        with pytest.raises(REFUSED):
            stranger.publish(payload, None)
        own = make_payload(next(SEEDS))
        stranger.push(own)
        mixed = _mixed(payload, own)
        with pytest.raises(REFUSED):
            stranger.client.call(
                "POST", "/versions", Published, body=mixed.publication(f"{stranger.space}/mixed", None)
            )
        with pytest.raises(NotFound):
            stranger.client.versions.locate(payload.digest)

    @pytest.mark.parametrize("kept_back", ["adapter_config.json", "adapter_model.safetensors"])
    def test_each_single_file_must_be_sent(
        self, owner: Party, stranger: Party, payload: Payload, kept_back: str
    ) -> None:
        owner.push(payload)
        session = stranger.begin(payload.blobs)
        missing = next(file.sha256 for file in payload.manifest.files if file.path == kept_back)
        partly = session.model_copy(update={"put": [put for put in session.put if put.sha256 != missing]})
        assert set(send(partly, payload).values()) <= {200, 201}
        with pytest.raises(REFUSED):
            stranger.publish(payload, session.id)
        assert stranger.has_nothing_of(payload)

    def test_the_registry_says_the_same_of_a_digest_that_is_there_and_of_one_that_is_not(
        self, owner: Party, stranger: Party, payload: Payload
    ) -> None:
        owner.push(payload)
        unknown = make_payload(next(SEEDS), marked="f" * 40)
        said = []
        for tried in (payload, unknown):
            session = stranger.begin(tried.blobs)
            with pytest.raises(REFUSED) as caught:
                stranger.publish(tried, session.id)
            message = caught.value.message
            for at, file in enumerate(tried.manifest.files):
                message = message.replace(file.sha256, f"<{at}>").replace(file.sha256[:12], f"<{at}>")
            shape = [(len(put.url), sorted(put.headers), put.size_bytes) for put in session.put]
            said.append((type(caught.value), message, shape))
        assert said[0][:2] == said[1][:2]
        assert [shape[:2] for shape in said[0][2]] == [shape[:2] for shape in said[1][2]]

    @pytest.mark.parametrize(
        "changed",
        [
            lambda body: body[:-1] + bytes([body[-1] ^ 1]),
            lambda body: body[:-1],
            lambda body: b"",
            lambda body: body + b" ",
        ],
        ids=["altered", "short", "empty", "long"],
    )
    def test_other_bytes_under_its_digest_are_refused_and_harm_nobody(
        self,
        owner: Party,
        stranger: Party,
        payload: Payload,
        changed: Callable[[bytes], bytes],
        tmp_path: Path,
    ) -> None:
        ref = owner.push(payload).version.ref
        session = stranger.begin(payload.blobs)
        assert set(send(session, payload, changed).values()) <= {400, 403, 413}
        with pytest.raises(REFUSED):
            stranger.publish(payload, session.id)
        assert stranger.has_nothing_of(payload)
        assert sorted(owner.pull(ref, tmp_path / "pulled").values()) == sorted(payload.files.values())

    def test_its_digest_with_another_size_is_refused_and_harms_nobody(
        self, owner: Party, stranger: Party, payload: Payload, tmp_path: Path
    ) -> None:
        ref = owner.push(payload).version.ref
        blobs = [BlobSpec(sha256=blob.sha256, size_bytes=blob.size_bytes - 1) for blob in payload.blobs]
        session = stranger.begin(blobs)
        assert set(send(session, payload, lambda body: body[:-1]).values()) <= {400, 403}
        with pytest.raises(REFUSED):
            stranger.publish(payload, session.id)
        assert stranger.has_nothing_of(payload)
        assert sorted(owner.pull(ref, tmp_path / "pulled").values()) == sorted(payload.files.values())

    def test_who_sends_the_same_bytes_has_them_and_both_can_pull(
        self, people: World, owner: Party, stranger: Party, payload: Payload, tmp_path: Path
    ) -> None:
        refs = {party: party.push(payload).version.ref for party in (owner, stranger)}
        for at, (party, ref) in enumerate(refs.items()):
            assert sorted(party.pull(ref, tmp_path / f"{at}").values()) == sorted(payload.files.values())
        # What one of them gives up, the other keeps.
        admin = people.client(Role.ADMIN)
        try:
            admin.versions.delete(refs[owner])
            admin.retention.gc(dry_run=False, grace_hours=0)
        finally:
            admin.close()
        assert sorted(stranger.pull(refs[stranger], tmp_path / "after").values()) == sorted(payload.files.values())
        for look in (lambda: owner.client.get(refs[owner]), lambda: owner.client.versions.locate(payload.digest)):
            with pytest.raises(NotFound):
                look()
        # They are as little its own now as if it had never sent them.
        assert asked(owner.begin(payload.blobs)) == set(payload.files)


class TestOpenSessions:
    """The owner has announced and sent, and has not published yet."""

    @pytest.mark.parametrize("stranger_first", [True, False])
    def test_an_open_session_of_the_owner_gives_the_stranger_nothing(
        self, owner: Party, stranger: Party, payload: Payload, stranger_first: bool, tmp_path: Path
    ) -> None:
        theirs = stranger.begin(payload.blobs) if stranger_first else None
        session = owner.begin(payload.blobs)
        assert set(send(session, payload).values()) <= {200, 201}
        theirs = theirs or stranger.begin(payload.blobs)
        assert asked(theirs) == set(payload.files)
        with pytest.raises(REFUSED):
            stranger.publish(payload, theirs.id)
        version = owner.publish(payload, session.id).version
        # Now that the bytes are verified they are as little the stranger's, in the old session and in a new one.
        for attempt in (theirs, stranger.begin(payload.blobs)):
            with pytest.raises(REFUSED):
                stranger.publish(payload, attempt.id)
        assert stranger.has_nothing_of(payload)
        assert sorted(owner.pull(version.ref, tmp_path / "pulled").values()) == sorted(payload.files.values())

    def test_publishing_in_the_same_moment_gives_nothing(self, owner: Party, stranger: Party) -> None:
        for _ in range(5):
            payload = make_payload(next(SEEDS), marked=uuid.uuid4().hex)
            session, theirs = owner.begin(payload.blobs), stranger.begin(payload.blobs)
            assert set(send(session, payload).values()) <= {200, 201}
            with ThreadPoolExecutor(2) as pool:
                mine = pool.submit(owner.publish, payload, session.id)
                other = pool.submit(stranger.publish, payload, theirs.id)
                assert mine.result().version.digest == payload.digest
                assert isinstance(other.exception(), REFUSED)
            assert stranger.has_nothing_of(payload)

    def test_nobody_publishes_from_a_session_of_somebody_else(
        self, owner: Party, stranger: Party, payload: Payload
    ) -> None:
        session = owner.begin(payload.blobs)
        assert set(send(session, payload).values()) <= {200, 201}
        with pytest.raises(NotFound, match="upload session"):
            stranger.publish(payload, session.id)
        assert stranger.has_nothing_of(payload)
        own = make_payload(next(SEEDS), marked=uuid.uuid4().hex)
        theirs = stranger.begin(own.blobs)
        assert set(send(theirs, own).values()) <= {200, 201}
        with pytest.raises(NotFound, match="upload session"):
            owner.publish(own, theirs.id)
        assert stranger.publish(own, theirs.id).version.digest == own.digest

    @pytest.mark.parametrize("published", [False, True])
    def test_a_token_that_only_bears_the_same_name_is_somebody_else(
        self, join: Callable[..., Party], payload: Payload, published: bool
    ) -> None:
        # An admin of one namespace chooses the names of its tokens, and may well choose that of another's.
        name = f"ci-{uuid.uuid4().hex[:8]}"
        owner, stranger = join(name), join(name)
        session = owner.begin(payload.blobs)
        assert set(send(session, payload).values()) <= {200, 201}
        if published:
            owner.publish(payload, session.id)
        theirs = stranger.begin(payload.blobs)
        assert asked(theirs) == set(payload.files)
        for attempt in (theirs.id, session.id):
            with pytest.raises(REFUSED):
                stranger.publish(payload, attempt)
        assert stranger.has_nothing_of(payload)

    def test_a_new_token_for_the_same_namespace_may_go_on(
        self, join: Callable[..., Party], owner: Party, payload: Payload
    ) -> None:
        """Colleagues of one namespace read the same versions, so what one has published the other need not send."""
        owner.push(payload)
        colleague = join(f"colleague-{uuid.uuid4().hex[:8]}", owner.space)
        session = colleague.begin(payload.blobs)
        assert asked(session) == set()
        assert colleague.publish(payload, session.id).existing


class TestOtherWays:
    """Datasets and bases are uploaded the same way, and bases are for everybody's eyes."""

    def test_no_dataset_is_made_of_a_digest(self, owner: Party, stranger: Party, payload: Payload) -> None:
        owner.push(payload)
        for blob in payload.blobs:
            session = stranger.begin([blob])
            body = DatasetRegistration(
                digest=blob.sha256, size_bytes=blob.size_bytes, format="jsonl", rows=1, name="x", upload=session.id
            )
            with pytest.raises(REFUSED):
                stranger.client.call("POST", "/datasets", DatasetView, body=body)
        assert stranger.has_nothing_of(payload)

    def test_another_s_dataset_is_not_taken_over(self, owner: Party, stranger: Party, tmp_path: Path) -> None:
        rows = tmp_path / "rows.jsonl"
        rows.write_text(f'{{"prompt": "{uuid.uuid4().hex}", "completion": "b"}}\n')
        dataset = owner.client.datasets.add(rows, namespace=owner.space)
        session = stranger.begin([BlobSpec(sha256=dataset.digest, size_bytes=dataset.size_bytes)])
        assert asked(session) == {dataset.digest}
        body = DatasetRegistration(
            digest=dataset.digest, size_bytes=dataset.size_bytes, format="jsonl", rows=1, name="x", upload=session.id
        )
        with pytest.raises(REFUSED):
            stranger.client.call("POST", "/datasets", DatasetView, body=body)
        with pytest.raises(NotFound):
            stranger.client.datasets.locate(dataset.digest)
        job = training(stranger.adapter, dataset.digest)
        with pytest.raises(REFUSED):
            stranger.client.call("POST", "/jobs", JobView, body=JobSubmission(request=job.request))

    def test_no_base_is_made_of_a_digest(self, owner: Party, stranger: Party, payload: Payload) -> None:
        owner.push(payload)
        name = f"base-{uuid.uuid4().hex[:8]}"
        files = [
            ManifestFile(path=f"{at}.safetensors", size_bytes=blob.size_bytes, sha256=blob.sha256)
            for at, blob in enumerate(payload.blobs)
        ]
        manifest = Manifest(kind="base", base_fingerprint=digest(f"{name}: base"), files=files)
        body = base_registration(name, manifest=manifest, upload=stranger.begin(payload.blobs).id)
        with pytest.raises(REFUSED):
            stranger.client.call("POST", "/bases", BaseView, body=body)
        with pytest.raises(NotFound):
            stranger.client.versions.locate(manifest.digest)
        assert stranger.has_nothing_of(payload)


def _mixed(one: Payload, two: Payload) -> Payload:
    """The config of one and the weights of another."""
    config, weights = one.manifest.files[0], two.manifest.files[1]
    manifest = Manifest(kind="adapter", base_fingerprint=one.manifest.base_fingerprint, files=[config, weights])
    files = {config.sha256: one.files[config.sha256], weights.sha256: two.files[weights.sha256]}
    return Payload(manifest=manifest, digest=manifest.digest, files=files, idle=False)
