"""Signatures in the registry: recorded with a version or later, seen by its readers, and asked for where keys are set."""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from support import calls, registries
from support.adapters import base_registration, lora_tensors, save_adapter, use_of
from support.calls import claim
from support.databases import new_database
from support.keys import Pair, make_key
from support.merging_desk import MergingDesk
from support.people import new_adapter, submit, training
from support.registries import World

from registry.catalog.models import Adapter, Version
from registry.errors import Invalid
from registry.errors import Unavailable as RegistryUnavailable
from registry.principal import Role
from registry.signatures.models import Signature
from registry.signatures.service import MAX_SIGNATURES, Trust
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotAllowed, NotFound, VerificationFailed
from sdk.objects import Version as Pushed
from sdk.pushing.signatures import check_signing_key, sign_manifest
from sdk.schemas.artifacts import SignatureView, SignedManifest
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.jobs import JobView
from sdk.schemas.wire import canonical_json
from sdk.signing import sign, verify


@pytest.fixture(autouse=True)
def _no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTERCTL_SIGNING_KEY", raising=False)
    monkeypatch.delenv("ADAPTERCTL_SIGNING_PASSWORD", raising=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("theirs"), kind="P-384")


@pytest.fixture
def writer(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.WRITER})


def hand_in(client: Client, digest: str, signed: SignedManifest) -> SignatureView:
    """Post a signature as it is."""
    return client.call("POST", f"/manifests/{digest}/signatures", SignatureView, body=signed)


def publish(client: Client, version: Pushed, adapter: str, signature: SignedManifest | None) -> Published:
    """Make what is a version already one of another adapter too, whose readers may read both."""
    said = {"adapter": adapter, "manifest": version.info.manifest, "lora": version.info.lora, "signature": signature}
    return client.call("POST", "/versions", Published, body=Publication.model_validate(said))


class TestRecording:
    def test_with_the_version(self, writer: Client, admin: Client, space: str, pair: Pair, tmp_path: Path) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny", sign=pair.private)
        (found,) = writer.signatures(version.digest)
        verify(version.info.manifest, found.bundle, pair.public)
        assert found.created_by == "ci"
        told = [(entry.action, entry.subject, entry.before, entry.after) for entry in admin.audit(namespace=space)]
        assert ("version.sign", version.digest, None, {"key": found.key_id}) in told

    def test_later_by_several_keys_and_again(
        self, writer: Client, admin: Client, space: str, pair: Pair, other: Pair, tmp_path: Path
    ) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        assert writer.signatures(version.digest) == []
        first, second = (
            writer.signatures.sign(version.ref, pair.private),
            writer.signatures.sign(version.ref, other.private),
        )
        assert writer.signatures(version.digest) == [first, second]
        anew = writer.signatures.sign(version.ref, pair.private)
        assert anew.bundle != first.bundle
        assert writer.signatures(version.digest) == [anew, second]
        # The very same one is there already.
        assert hand_in(writer, version.digest, SignedManifest(key_id=anew.key_id, bundle=anew.bundle)) == anew
        trail = [(e.before, e.after) for e in reversed(admin.audit(namespace=space, action="version.sign"))]
        assert trail == [
            (None, {"key": first.key_id}),
            (None, {"key": second.key_id}),
            ({"key": first.key_id, "by": "ci"}, {"key": first.key_id}),
        ]

    def test_with_bytes_that_are_there_already(self, writer: Client, space: str, pair: Pair, tmp_path: Path) -> None:
        folder = new_adapter(tmp_path)
        version = writer.push(folder, f"{space}/a", base="tiny")
        again = writer.push(folder, f"{space}/a", base="tiny", sign=pair.private)
        assert again.ref == version.ref
        (found,) = writer.signatures(version.digest)
        verify(version.info.manifest, found.bundle, pair.public)

    def test_of_what_is_in_quarantine(self, pair: Pair, tmp_path: Path) -> None:
        tensors = {name: value * ("lora_A" in name) for name, value in lora_tensors().items()}
        folder = save_adapter(tmp_path / "zero", tensors=tensors)
        with registries.served(tmp_path / "world", gate="quarantine") as world:
            world.admin.bases.register(base_registration())
            with pytest.raises(VerificationFailed, match="in quarantine") as caught:
                world.writer.push(folder, "a", base="tiny", sign=pair.private)
            admin = world.client(Role.ADMIN)
            released = admin.versions.release(caught.value.message.rpartition(" ")[2])
            (found,) = admin.signatures(released.digest)
            verify(released.info.manifest, found.bundle, pair.public)
            admin.close()

    def test_two_at_once_are_one(self, writer: Client, space: str, pair: Pair, tmp_path: Path) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        signed = [sign(version.info.manifest, pair.private) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: hand_in(writer, version.digest, one), signed))
        (found,) = writer.signatures(version.digest)
        assert found.bundle in {one.bundle for one in signed}

    def test_so_many_and_no_more(self, writer: Client, space: str, pair: Pair, tmp_path: Path) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        bundle = sign(version.info.manifest, pair.private).bundle
        for number in range(MAX_SIGNATURES):
            hand_in(writer, version.digest, SignedManifest(key_id=f"{number:064x}", bundle=bundle))
        with pytest.raises(Conflict, match="can't have more"):
            hand_in(writer, version.digest, SignedManifest(key_id="f" * 64, bundle=bundle))
        # One that is there can still be made anew.
        hand_in(writer, version.digest, SignedManifest(key_id=f"{1:064x}", bundle=bundle))
        assert len(writer.signatures(version.digest)) == MAX_SIGNATURES


class TestWhoMay:
    def test_strangers_find_nothing(
        self, acting: Callable[..., Client], writer: Client, space: str, pair: Pair, tmp_path: Path
    ) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny", sign=pair.private)
        stranger = acting(**{f"{space}-other": Role.ADMIN})
        signed = sign(version.info.manifest, pair.private)
        with pytest.raises(NotFound) as unseen:
            stranger.signatures(version.digest)
        with pytest.raises(NotFound):
            hand_in(stranger, version.digest, signed)
        missing = "0" * 64
        with pytest.raises(NotFound) as nothing:
            stranger.signatures(missing)
        # What may not be seen and what isn't there are told alike.
        assert unseen.value.message.replace(version.digest[:12], "") == nothing.value.message.replace(missing[:12], "")

    @pytest.mark.parametrize("role", [Role.READER, Role.WORKER])
    def test_readers_read(
        self, role: Role, acting: Callable[..., Client], writer: Client, space: str, pair: Pair, tmp_path: Path
    ) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny", sign=pair.private)
        # Somebody who writes elsewhere only reads here.
        reader = acting(**{space: role, f"{space}-other": Role.WRITER})
        assert len(reader.signatures(version.digest)) == 1
        with pytest.raises(NotAllowed):
            reader.signatures.sign(version.ref, pair.private)
        assert len(writer.signatures(version.digest)) == 1

    def test_a_digest_is_given_whole(self, writer: Client, space: str, pair: Pair, tmp_path: Path) -> None:
        version = writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        signed = sign(version.info.manifest, pair.private)
        for given in ("x", "..", "0" * 63, version.digest.upper(), version.digest[:12]):
            with pytest.raises((NotFound, InvalidInput)):
                hand_in(writer, given, signed)


class TestWhatIsRefused:
    def refused(self, client: Client, version: Pushed, **body: Any) -> dict[str, Any]:
        """What the registry says to a body."""
        answer = client.transport._client().post(
            f"/api/v1/manifests/{version.digest}/signatures",
            json=body,
            headers={"Authorization": f"Bearer {client.config.token}"},
        )
        assert answer.status_code == 422, answer.text
        return answer.json()["error"]

    def test_anothers_signature_and_what_is_none(self, writer: Client, space: str, pair: Pair, tmp_path: Path) -> None:
        version, another = (writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny") for _ in range(2))
        signed = sign(another.info.manifest, pair.private)
        with pytest.raises(VerificationFailed, match="something other"):
            hand_in(writer, version.digest, signed)
        for bundle in ("{}", "[" * 60_000, json.dumps(json.loads(signed.bundle), indent=1), "no JSON"):
            with pytest.raises(VerificationFailed):
                hand_in(writer, version.digest, SignedManifest(key_id="a" * 64, bundle=bundle))
        for body in (
            {"key_id": "a" * 64, "bundle": "x" * 65_537},
            {"key_id": "A" * 64, "bundle": signed.bundle},
            {"key_id": "a" * 64, "bundle": json.loads(signed.bundle)},
            {"key_id": "a" * 64},
            {"key_id": "a" * 64, "bundle": signed.bundle, "more": 1},
        ):
            assert self.refused(writer, version, **body)["code"] == "invalid"
        assert writer.signatures(version.digest) == []

    def test_a_publication_with_a_bad_one_leaves_nothing(
        self, people: World, writer: Client, space: str, pair: Pair, tmp_path: Path
    ) -> None:
        version, another = (writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny") for _ in range(2))
        bad = sign(another.info.manifest, pair.private)
        with pytest.raises(VerificationFailed, match="something other"):
            publish(writer, version, f"{space}/b", bad)
        with people.services.db.read() as session:
            assert session.scalar(select(func.count()).where(Adapter.name == f"{space}/b")) == 0
        assert publish(writer, version, f"{space}/b", None).version.number == 1


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def strict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Iterator[World]:
    """A registry that takes versions signed by one key, or by another of its folder."""
    folder = tmp_path_factory.mktemp(f"strict-{request.param}")
    keys = folder / "keys"
    keys.mkdir()
    (keys / "ours.pem").write_bytes(pair.public.read_bytes())
    (keys / "spare.pem").write_bytes(make_key(folder / "spare").public.read_bytes())
    with ExitStack() as stack:
        url = stack.enter_context(new_database(request.param, folder, request))
        found = stack.enter_context(registries.served(folder, database_url=url, signing_keys=str(keys)))
        found.admin.bases.register(base_registration())
        yield found


class TestWhereKeysAreSet:
    def test_a_version_of_ours_is_taken(self, strict: World, pair: Pair, tmp_path: Path) -> None:
        name = f"a-{uuid.uuid4().hex[:8]}"
        version = strict.writer.push(new_adapter(tmp_path), name, base="tiny", sign=pair.private)
        assert version.number == 1
        (found,) = strict.writer.signatures(version.digest)
        verify(version.info.manifest, found.bundle, pair.public)

    def test_by_the_environments_key(
        self, strict: World, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ADAPTERCTL_SIGNING_KEY", str(pair.private))
        check_signing_key()
        version = strict.writer.push(new_adapter(tmp_path), f"a-{uuid.uuid4().hex[:8]}", base="tiny")
        assert len(strict.writer.signatures(version.digest)) == 1
        monkeypatch.setenv("ADAPTERCTL_SIGNING_KEY", str(pair.public))
        with pytest.raises(InvalidInput, match="sign with the private one"):
            check_signing_key()
        monkeypatch.setenv("ADAPTERCTL_SIGNING_KEY", "")
        check_signing_key()

    @pytest.mark.parametrize("how", ["unsigned", "another key", "another key under our name", "another version's"])
    def test_every_other_is_refused_before_anything_is_made(
        self, how: str, strict: World, pair: Pair, other: Pair, tmp_path: Path
    ) -> None:
        name = f"b-{uuid.uuid4().hex[:8]}"
        first, second = (
            strict.writer.push(new_adapter(tmp_path), f"{name}-source", base="tiny", sign=pair.private)
            for _ in range(2)
        )
        ours = sign(first.info.manifest, pair.private)
        signature = {
            "unsigned": None,
            "another key": sign(first.info.manifest, other.private),
            "another key under our name": SignedManifest(
                key_id=ours.key_id, bundle=sign(first.info.manifest, other.private).bundle
            ),
            "another version's": sign(second.info.manifest, pair.private),
        }[how]
        with pytest.raises(VerificationFailed) as caught:
            publish(strict.writer, first, name, signature)
        assert caught.value.exit_code == 7
        if how in ("unsigned", "another key"):
            assert ours.key_id[:12] in caught.value.message
        with strict.services.db.read() as session:
            assert session.scalar(select(func.count()).where(Adapter.name == name)) == 0
            states = session.scalars(select(Version.state).where(Version.digest == first.digest)).all()
            assert states == ["ready"]
        assert publish(strict.writer, first, name, ours).version.number == 1

    def test_a_push_says_how_to_go_on(self, strict: World, tmp_path: Path) -> None:
        with pytest.raises(VerificationFailed, match="push again with sign=KEY"):
            strict.writer.push(new_adapter(tmp_path), f"c-{uuid.uuid4().hex[:8]}", base="tiny")

    def test_a_signature_that_is_added_must_be_whose_it_says(
        self, strict: World, pair: Pair, other: Pair, tmp_path: Path
    ) -> None:
        name = f"d-{uuid.uuid4().hex[:8]}"
        version = strict.writer.push(new_adapter(tmp_path), name, base="tiny", sign=pair.private)
        (ours,) = strict.writer.signatures(version.digest)
        theirs = sign(version.info.manifest, other.private)
        with pytest.raises(VerificationFailed, match="was not made with"):
            hand_in(strict.writer, version.digest, SignedManifest(key_id=ours.key_id, bundle=theirs.bundle))
        bundle = json.loads(theirs.bundle)
        hint = hashlib.sha256(pair.public.read_bytes()).hexdigest()
        bundle["verificationMaterial"]["publicKey"]["hint"] = hint
        forged = SignedManifest(key_id=ours.key_id, bundle=canonical_json(bundle).decode())
        with pytest.raises(VerificationFailed, match="it was not made with this key"):
            hand_in(strict.writer, version.digest, forged)
        # A further signer may vouch for it too, whose key the registry does not know.
        hand_in(strict.writer, version.digest, theirs)
        assert [found.key_id for found in strict.writer.signatures(version.digest)] == [ours.key_id, theirs.key_id]

    def test_a_workers_version_is_asked_for_one_too(
        self, strict: World, pair: Pair, tmp_path: Path, rows: Path
    ) -> None:
        name, worker = f"f-{uuid.uuid4().hex[:8]}", strict.worker
        data = strict.writer.datasets.add(rows).digest
        job = submit(strict.writer, training(name, data))
        assignment = claim(worker)
        assert assignment.job == job.id
        said = calls.publication(worker, new_adapter(tmp_path), name, dataset=use_of(data))

        def complete(signature: SignedManifest | None) -> JobView:
            return calls.complete(worker, assignment, version=said.model_copy(update={"signature": signature}))

        with pytest.raises(VerificationFailed, match="accepts only signed versions"):
            complete(sign_manifest(said.manifest))
        assert strict.writer.job(job.id).state == "running"
        assert complete(sign_manifest(said.manifest, pair.private)).state == "succeeded"
        assert strict.writer.signatures(said.manifest.digest)[0].created_by == "some worker"

    def test_a_copy_has_the_signature_of_its_version(self, strict: World, pair: Pair, tmp_path: Path) -> None:
        name = f"a-{uuid.uuid4().hex[:8]}"
        version = strict.writer.push(new_adapter(tmp_path), name, base="tiny", sign=pair.private)
        copied = strict.writer.versions.copy(version.ref, f"{name}-copy")
        assert (copied.number, copied.digest) == (1, version.digest)
        strict.writer.pull(copied.ref, tmp_path / "verified", verify_with=pair.public)

    def test_so_is_a_merged_model_that_becomes_a_version(
        self, strict: World, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk = MergingDesk.open(strict.writer, strict.worker, f"g-{uuid.uuid4().hex[:8]}", tmp_path)
        with monkeypatch.context() as environment:
            environment.setenv("ADAPTERCTL_SIGNING_KEY", str(pair.private))
            ref = desk.push()
        desk.submit(ref)
        held, result = desk.claim(), desk.result(desk.model())
        with pytest.raises(VerificationFailed, match="accepts only signed versions"):
            desk.complete(held, result)
        signed = result.model_copy(update={"signature": sign_manifest(result.manifest, pair.private)})
        assert desk.complete(held, signed).state == "succeeded"
        version = desk.writer.get(desk.named("m"))
        assert desk.writer.signatures(version.digest)[0].created_by == "some worker"
        desk.writer.pull(version.ref, tmp_path / "verified", verify_with=pair.public)
        # What is no version is not asked for one.
        desk.merged(ref, None)

    def test_at_once_with_many_pushers_each_has_its_number_and_signature(
        self, strict: World, pair: Pair, tmp_path: Path
    ) -> None:
        name = f"e-{uuid.uuid4().hex[:8]}"
        folders = [save_adapter(tmp_path / str(seed), 9000 + seed) for seed in range(6)]

        def push(folder: Path) -> Pushed:
            return strict.writer.push(folder, name, base="tiny", sign=pair.private)

        with ThreadPoolExecutor(6) as pool:
            versions = list(pool.map(push, folders))
        assert sorted(version.number or 0 for version in versions) == [1, 2, 3, 4, 5, 6]
        with strict.services.db.read() as session:
            digests = [version.digest for version in versions]
            query = select(func.count()).select_from(Signature).where(Signature.manifest_digest.in_(digests))
            assert session.scalar(query) == 6


class TestTheSetting:
    def test_what_holds_no_keys_stops_the_server(self, pair: Pair, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "bad.pem").write_text("no key")
        for setting in (tmp_path / "none", tmp_path / "empty", tmp_path / "bad.pem", pair.private):
            with pytest.raises(Invalid, match="REGISTRY_SIGNING_KEYS") as caught:
                Trust.of(str(setting))
            assert caught.value.param == "REGISTRY_SIGNING_KEYS"

    def test_without_the_extra_it_does_not_start(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "model_signing", None)
        with pytest.raises(RegistryUnavailable, match=r"pip install 'adapterctl\[signing\]'"):
            Trust.of(str(pair.public))

    def test_where_it_is_not_set_no_key_is_asked_for(self, people: World) -> None:
        assert people.services.settings.signing_keys is None
        assert not Trust.of(None).asks
