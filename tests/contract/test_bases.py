"""Bases between tenants: what is derived is one truth, names and files belong to a namespace, nobody replaces another's."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from support.adapters import base_registration, digest
from support.registries import World
from support.small import TENSORS, write_adapter, write_base, write_safetensors
from support.working import Held

from registry.artifacts.blob_check import Passing
from registry.artifacts.service import Artifacts
from registry.catalog.bases import service
from registry.catalog.models import NamedBase
from registry.principal import LOCAL, SYSTEM, Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidBase, InvalidInput, NotAllowed, NotFound, VerificationFailed
from sdk.formats import base_files
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import ScannedBase, scan_base
from sdk.schemas.catalog import BaseFix, BaseRegistration, BaseView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import BaseSource, WorkerInfo
from sdk.transfer import hash_file
from workers.node.bases import obtain
from workers.settings import WorkerSettings

#: Each base of the run has weights of its own.
VALUES = itertools.count(1)
#: Shapes that are not those of `write_base`'s weights.
TWICE = {name: [2 * size for size in shape] for name, shape in TENSORS.items()}


@dataclass(frozen=True)
class Tenant:
    """Somebody with a namespace, in which nobody else may read."""

    client: Client
    space: str
    folder: Path

    def base(self, name: str = "base", *, like: Path | None = None, **config: Any) -> Path:
        """A base of a folder of this tenant's: new, or the bytes of another."""
        folder = self.folder / f"{next(VALUES)}" / name
        if like is None:
            return write_base(folder, value=next(VALUES) / 1000, **config)
        folder.mkdir(parents=True)
        for path in like.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    def scan(self, folder: Path) -> ScannedBase:
        """What a folder holds."""
        return scan_base(folder, cache=Cache(self.folder / "cache"))

    def register(self, folder: Path, *, upload: bool = False, client: Client | None = None, **said: Any) -> BaseView:
        """Register a base, with what is said of it changed."""
        scanned = self.scan(folder)
        said = {"namespace": self.space, **said}
        if upload:
            manifest: Manifest = said.get("manifest", scanned.manifest)
            at = {path.name: path for path in folder.iterdir()}
            said |= {"upload": self.client.upload({file.sha256: at[file.path] for file in manifest.files}, "sending")}
        body = BaseRegistration.model_validate(scanned.registration.model_dump() | said)
        return (client or self.client).register_base(body)


@pytest.fixture
def join(people: World, tmp_path: Path) -> Iterator[Callable[..., Tenant]]:
    """Return a function that lets somebody in, with a role in a new namespace."""
    opened: list[Client] = []

    def let_in(space: str = "", role: Role = Role.WRITER, **more: Role) -> Tenant:
        space = space or f"team-{uuid.uuid4().hex[:12]}"
        name = f"ci-{uuid.uuid4().hex[:8]}"
        token = people.services.tokens.create(name=name, grants={space: role, **more}, who=LOCAL)
        opened.append(Client(people.url, token.secret, cache=tmp_path / f"cache-{name}"))
        return Tenant(opened[-1], space, tmp_path / name)

    yield let_in
    for client in opened:
        client.close()


@pytest.fixture
def ours(join: Callable[..., Tenant]) -> Tenant:
    return join()


@pytest.fixture
def theirs(join: Callable[..., Tenant]) -> Tenant:
    return join()


class TestNames:
    def test_an_id_means_what_its_own_namespace_says(self, ours: Tenant, theirs: Tenant, admin: Client) -> None:
        mine, published, hostile = ours.base(), ours.base(), theirs.base()
        admin.add_base(published, id="llama", namespace="*")
        shared = admin.base("llama", namespace=ours.space)
        assert shared.namespace == "*"
        assert ours.register(mine, id="llama").fingerprint != shared.fingerprint
        theirs.register(hostile, id="llama")
        assert ours.client.base("llama").fingerprint == ours.scan(mine).registration.fingerprint
        assert {base.namespace for base in ours.client.bases()} == {ours.space, "*"}
        with pytest.raises(NotFound):
            ours.client.base(theirs.scan(hostile).registration.fingerprint)

    def test_an_id_moves_only_within_its_namespace_and_says_so(self, ours: Tenant, theirs: Tenant) -> None:
        first = ours.register(ours.base(), id="llama")
        assert first.replaces is None
        assert theirs.register(theirs.base(), id="llama").replaces is None
        assert ours.client.base("llama").fingerprint == first.fingerprint
        second = ours.register(ours.base(), id="llama")
        assert second.replaces == first.fingerprint
        assert ours.client.base("llama").fingerprint == second.fingerprint

    def test_an_id_that_is_said_again_means_that_base_again(self, ours: Tenant) -> None:
        folder = ours.base()
        first = ours.register(folder, id="llama")
        second = ours.register(ours.base(), id="llama")
        assert ours.client.base("llama").fingerprint == second.fingerprint
        again = ours.register(folder, id="llama")
        assert (again.fingerprint, again.replaces) == (first.fingerprint, second.fingerprint)
        assert ours.client.base("llama").fingerprint == first.fingerprint
        assert ours.register(folder, id="llama").replaces is None

    def test_a_worker_moves_no_id_and_sets_no_files(self, ours: Tenant, join: Any) -> None:
        worker = join(ours.space, Role.WORKER)
        meant, found = ours.register(ours.base(), id="llama"), ours.base()
        said = worker.register(found, id="llama", namespace=ours.space)
        assert (said.replaces, said.facts) == (None, "hashed")
        assert ours.client.base("llama").fingerprint == meant.fingerprint
        with pytest.raises(NotAllowed, match="write"):
            worker.register(found, id="llama", namespace=ours.space, upload=True)
        # Whoever may write says otherwise.
        assert ours.register(found, id="llama").replaces == meant.fingerprint
        assert ours.client.base("llama").fingerprint == said.fingerprint

    def test_a_base_in_the_place_of_one_that_was_taken_away_is_itself(
        self, ours: Tenant, admin: Client, tmp_path: Path
    ) -> None:
        """SQLite gives the key of the last row again once that is gone."""
        first = ours.register(ours.base(), id="first")
        ours.client.push(write_adapter(tmp_path / "a", value=0.25), f"{ours.space}/a", base="first")
        admin.remove_base("first", namespace=ours.space)
        second = ours.register(ours.base(), id="second")
        made = ours.client.push(write_adapter(tmp_path / "b", value=0.3), f"{ours.space}/b", base="second")
        assert made.info.base.fingerprint == second.fingerprint != first.fingerprint

    def test_nobody_registers_for_another_or_for_all(self, ours: Tenant, theirs: Tenant, join: Any) -> None:
        for namespace, refused in ((ours.space, NotFound), ("*", NotAllowed)):
            with pytest.raises(refused):
                theirs.register(theirs.base(), namespace=namespace)
        reader = join(ours.space, Role.READER)
        with pytest.raises(NotAllowed):
            reader.register(reader.base())
        # A worker of all namespaces tells what it has hashed, and publishes nothing.
        worker = join("*", Role.WORKER)
        with pytest.raises(NotAllowed):
            worker.register(worker.base(), namespace="*")

    @pytest.mark.parametrize("role", [Role.WRITER, Role.PROMOTER])
    @pytest.mark.parametrize("upload", [False, True])
    def test_who_may_write_everywhere_publishes_nothing_for_all(
        self, join: Any, admin: Client, role: Role, upload: bool
    ) -> None:
        writer = join("*", role)
        folder = writer.base()
        for client, wanted, found in ((writer.client, None, "-"), (writer.client, "team", "team"), (admin, None, "*")):
            assert client.add_base(folder, id="everyones", upload=upload, namespace=wanted).namespace == found
        for place, location in ((folder, None), (writer.base(), "file:///elsewhere")):
            with pytest.raises(NotAllowed, match="register it for one with: --namespace") as caught:
                writer.register(place, id="everyones", location=location, upload=upload, namespace="*")
            assert caught.value.param == "namespace"
        published = admin.base("everyones", namespace="*")
        assert (published.fingerprint, published.uploaded) == (writer.scan(folder).registration.fingerprint, upload)
        assert published.location == admin.base("everyones", namespace="team").location

    def test_a_version_keeps_what_its_base_was_called(self, ours: Tenant, theirs: Tenant, tmp_path: Path) -> None:
        folder = ours.base()
        ours.register(folder, id="first")
        theirs.register(theirs.base(like=folder), id="evil")
        pushed = ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/x", base="first")
        theirs.register(theirs.base(), id="first")
        again = ours.client.get(pushed.ref).info
        assert (pushed.info.base.id, again.base.id) == ("first", "first")
        assert [found.base.id for found in ours.client.search("base = first")] == ["first"]
        nodes = ours.client.lineage(pushed.ref).model_dump()["nodes"]
        assert {node["id"] for node in nodes if node["kind"] == "base"} == {"first"}
        assert not theirs.client.search("base = first")

    def test_nothing_is_made_over_another_tenants_base(self, ours: Tenant, theirs: Tenant, tmp_path: Path) -> None:
        fingerprint = ours.register(ours.base()).fingerprint
        with pytest.raises(NotFound):
            theirs.client.push(write_adapter(tmp_path / "a"), f"{theirs.space}/x", base=fingerprint)

    def test_admins_mend_and_take_away(self, ours: Tenant, join: Any, admin: Client, tmp_path: Path) -> None:
        view = ours.register(ours.base(), id="typo", location="file:///wrong")
        with pytest.raises(NotAllowed):
            ours.client.fix_base("typo", namespace=ours.space, id="right")
        boss = join(ours.space, Role.ADMIN)
        fixed = boss.client.fix_base("typo", namespace=ours.space, id="right", location="file:///right")
        assert (fixed.id, fixed.location, fixed.fingerprint) == ("right", "file:///right", view.fingerprint)
        pushed = ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/x", base="right")
        with pytest.raises(NotAllowed):
            ours.client.remove_base("right", namespace=ours.space)
        boss.client.remove_base("right")
        assert ours.client.get(pushed.ref).info.base.id == "right"
        with pytest.raises(NotFound, match="adapterctl base add"):
            ours.client.push(write_adapter(tmp_path / "b", value=0.5), f"{ours.space}/x", base=view.fingerprint)
        actions = [entry.action for entry in admin.audit(namespace=ours.space)]
        assert {"base.register", "base.fix", "base.remove"} <= set(actions)


class TestFacts:
    def test_what_is_sent_says_itself_what_it_is(self, ours: Tenant) -> None:
        folder = ours.base()
        view = ours.register(
            folder, upload=True, tensors={"a": [1]}, config={"model_type": "lie"}, architecture="Lie", size_bytes=1
        )
        true = ours.scan(folder).registration
        shown = ours.client.base(view.fingerprint)
        assert (shown.facts, shown.uploaded) == ("derived", True)
        assert (shown.config, shown.architecture, shown.size_bytes) == (true.config, true.architecture, true.size_bytes)
        assert shown.weights_digest == true.weights_digest

    def test_the_first_to_claim_fixes_nothing_for_others(self, ours: Tenant, theirs: Tenant, tmp_path: Path) -> None:
        folder = ours.base()
        wrong = {name: [3, 3] for name in TENSORS}
        lie = {"tensors": wrong, "weights_digest": digest("lie"), "architecture": "Lie", "manifest": None}
        assert theirs.register(theirs.base(like=folder), **lie).facts == "claimed"
        assert ours.register(folder).architecture == "LlamaForCausalLM"
        pushed = ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/x", base=folder)
        assert ours.client.get(pushed.ref).info.base.weights_digest == ours.scan(folder).registration.weights_digest

    @pytest.mark.parametrize("changed", ["config", "fingerprint", "tokenizer", "weights"])
    def test_files_that_are_not_of_the_fingerprint_are_refused(self, ours: Tenant, changed: str) -> None:
        folder, other = ours.base(), ours.base(rope_theta=7.0)
        (other / "tokenizer.json").write_text('{"version": "2.0"}')
        true, false = ours.scan(folder), ours.scan(other)
        said: dict[str, Any] = {}
        if changed == "config":
            said["config"] = false.registration.config
        elif changed == "fingerprint":
            said["fingerprint"] = false.registration.fingerprint
        else:
            name = {"tokenizer": "tokenizer.json", "weights": "model.safetensors"}[changed]
            of_other = next(file for file in false.manifest.files if file.path == name)
            files = [of_other if file.path == name else file for file in true.manifest.files]
            said["manifest"] = true.manifest.model_copy(update={"files": files})
        with pytest.raises(VerificationFailed, match="fingerprint"):
            ours.register(folder, **said)

    def test_who_merely_claims_a_fingerprint_is_shown_what_they_said(self, ours: Tenant, theirs: Tenant) -> None:
        folder = ours.base(_name_or_path="/home/ann/secret", transformers_version="4.99")
        claim = {"manifest": None, "config": {"model_type": "x"}, "tensors": {"x": [1]}, "size_bytes": 1}
        claimed = theirs.register(folder, **claim)
        uploaded = ours.register(folder, upload=True)
        seen = theirs.client.base(claimed.fingerprint)
        assert (seen.facts, seen.size_bytes, seen.config) == ("claimed", 1, {"model_type": "x"})
        # Whose files they are is told what the fingerprint covers, and that it is derived.
        own = ours.client.base(uploaded.fingerprint)
        assert own.facts == "derived"
        assert own.config is not None
        assert {"_name_or_path", "transformers_version"} & own.config.keys() == set()
        assert own.config["model_type"] == json.loads((folder / "config.json").read_text())["model_type"]

    @pytest.mark.parametrize("first", [False, True])
    @pytest.mark.parametrize("said_by", [Role.WRITER, Role.WORKER])
    def test_what_another_has_sent_says_nothing_of_one_s_own_claim(
        self, ours: Tenant, theirs: Tenant, join: Any, tmp_path: Path, said_by: Role, first: bool
    ) -> None:
        folder, rows = ours.base(), tmp_path / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        claim = {
            "manifest": None,
            "tensors": TWICE,
            "config": {"model_type": "x"},
            "size_bytes": 2**32,
            "location": None,
        }
        if first:
            theirs.register(theirs.base(like=folder), upload=True)
        speaker = ours if said_by == Role.WRITER else join(ours.space, said_by)
        view = speaker.register(folder, **{**claim, "namespace": ours.space})
        if not first:
            theirs.register(theirs.base(like=folder), upload=True)
        with pytest.raises(VerificationFailed, match="8×8, the base's weight is 16×16"):
            ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/x", base=view.fingerprint)
        shown = ours.client.base(view.fingerprint)
        assert (shown.size_bytes, shown.config) == (2**32, {"model_type": "x"})
        job = ours.client.submit_training(f"{ours.space}/x", base=view.fingerprint, data=rows)
        job.cancel()
        assert (job.view.needs.memory_bytes or 0) > 2**30

    def test_what_one_has_sent_oneself_says_more_than_one_s_claim(self, ours: Tenant, tmp_path: Path) -> None:
        folder = ours.base()
        write_safetensors(folder / "model.safetensors", TWICE, value=next(VALUES) / 1000)
        ours.register(folder, manifest=None, tensors=TENSORS)
        ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/x", base=folder)
        ours.register(folder, upload=True)
        with pytest.raises(VerificationFailed, match="8×8, the base's weight is 16×16"):
            ours.client.push(write_adapter(tmp_path / "b", value=0.3), f"{ours.space}/x", base=folder)

    def test_a_base_is_as_large_as_the_files_that_one_has_sent_oneself(self, ours: Tenant, theirs: Tenant) -> None:
        folder = ours.base()
        larger = theirs.base(like=folder)
        # A file that the fingerprint does not cover.
        (larger / "generation_config.json").write_text('{"eos_token_id": 7}')
        others = theirs.register(larger, upload=True)
        own = ours.register(folder, upload=True)
        assert own.fingerprint == others.fingerprint
        assert ours.client.base(own.fingerprint).size_bytes == ours.scan(folder).manifest.size_bytes < others.size_bytes

    def test_of_weights_their_headers_alone_are_read_again(self, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = ours.base()
        write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": [4 * 2**20, 1]}, value=0.5)
        passed: list[Passing] = []
        reading = Artifacts.reading

        @contextmanager
        def watched(self: Artifacts, sha256: str) -> Iterator[Passing]:
            with reading(self, sha256) as passing:
                passed.append(passing)
                yield passing

        monkeypatch.setattr(Artifacts, "reading", watched)
        assert ours.register(folder, upload=True).facts == "derived"
        assert passed
        assert max(passing.size_bytes for passing in passed) <= 2**20 < (folder / "model.safetensors").stat().st_size

    def test_what_was_derived_once_is_not_read_again(self, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = ours.base()
        first = ours.register(folder, upload=True)

        def read(*_given: Any) -> Any:
            raise AssertionError("the headers of known files were read again")

        monkeypatch.setattr(service, "derive", read)
        assert ours.register(folder, upload=True) == first

    def test_so_many_files_are_no_base(self, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base_files, "MAX_WEIGHT_FILES", 0)
        with pytest.raises(InvalidBase, match="save it in larger ones"):
            ours.scan(ours.base())

    def test_a_worker_that_has_hashed_a_base_says_what_it_is(self, ours: Tenant, join: Any) -> None:
        folder = ours.base()
        view = ours.register(folder, tensors={"a": [1]})
        assert view.facts == "claimed"
        worker = join(ours.space, Role.WORKER)
        assert worker.register(folder, id="other", location="file:///elsewhere").facts == "hashed"
        shown = ours.client.base(view.fingerprint)
        # What it is called, and where it lies, a worker does not say.
        assert (shown.id, shown.location, shown.facts) == (view.id, view.location, "hashed")
        assert ours.register(folder, tensors={"a": [1]}).facts == "hashed"


def _add(folder: Path, name: str, content: bytes) -> ManifestFile:
    (folder / name).write_bytes(content)
    sha256, size = hash_file(folder / name)
    return ManifestFile(path=name, size_bytes=size, sha256=sha256)


class TestFiles:
    @pytest.mark.parametrize(
        "name",
        ["adapter_model.safetensors", "adapter_config.json", "modeling_llama.py", "pytorch_model.bin", "README.md"],
    )
    def test_a_base_holds_files_of_a_base_alone(self, ours: Tenant, name: str) -> None:
        folder = ours.base()
        manifest = ours.scan(folder).manifest
        extra = _add(folder, name, b"{}")
        with pytest.raises(VerificationFailed, match="this is no base"):
            ours.register(folder, upload=True, manifest=manifest.model_copy(update={"files": [*manifest.files, extra]}))

    def test_an_index_says_what_the_headers_say(self, ours: Tenant) -> None:
        folder = ours.base()
        (folder / "model.safetensors").unlink()
        shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        for number, shard in enumerate(shards):
            write_safetensors(folder / shard, {f"{number}.weight": [2]}, value=next(VALUES) / 1000)
        true = {"weight_map": {"0.weight": shards[0], "1.weight": shards[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(true))
        manifest = ours.scan(folder).manifest
        false = {"weight_map": {"0.weight": shards[1], "1.weight": shards[0]}}
        index = _add(folder, "model.safetensors.index.json", json.dumps(false).encode())
        files = [index if file.path == index.path else file for file in manifest.files]
        lying = manifest.model_copy(update={"files": files})
        (folder / "model.safetensors.index.json").write_text(json.dumps(true))
        scanned = ours.scan(folder)
        at = {path.name: path for path in folder.iterdir()}
        (folder / "model.safetensors.index.json").write_text(json.dumps(false))
        upload = ours.client.upload({file.sha256: at[file.path] for file in files}, "sending")
        body = scanned.registration.model_copy(update={"manifest": lying, "upload": upload, "namespace": ours.space})
        with pytest.raises(VerificationFailed, match="disagree on the tensor"):
            ours.client.register_base(body)

    @pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
    def test_files_that_refer_to_others_are_refused(self, ours: Tenant, name: str) -> None:
        folder = ours.base()
        (folder / name).write_text("{}")
        scanned = ours.scan(folder)
        other = _add(folder, name, b'{"vocab": "/etc/passwd"}')
        files = [other if file.path == name else file for file in scanned.manifest.files]
        config = scanned.registration.config
        fingerprint = base_files.identify(config, {file.path: file.sha256 for file in files}).fingerprint
        hostile = Manifest(kind="base", base_fingerprint=fingerprint, files=files)
        upload = ours.client.upload({file.sha256: folder / file.path for file in files}, "sending")
        said = {"manifest": hostile, "fingerprint": fingerprint, "upload": upload, "namespace": ours.space}
        with pytest.raises(VerificationFailed, match=f"this is no base: {name}"):
            ours.client.register_base(scanned.registration.model_copy(update=said))

    def test_a_base_with_one_file_and_an_index_of_others_is_refused(self, ours: Tenant) -> None:
        folder = ours.base()
        manifest = ours.scan(folder).manifest
        shard = "model-00001-of-00001.safetensors"
        write_safetensors(folder / shard, TENSORS, value=next(VALUES) / 1000)
        content = (folder / shard).read_bytes()
        index = json.dumps({"weight_map": dict.fromkeys(TENSORS, shard)}).encode()
        more = [_add(folder, shard, content), _add(folder, "model.safetensors.index.json", index)]
        with pytest.raises(InvalidInput, match="what is loaded depends on who loads it"):
            ours.client.add_base(folder, upload=True)
        (folder / "model.safetensors.index.json").unlink()
        scanned = ours.scan(folder)
        (folder / "model.safetensors.index.json").write_bytes(index)
        both = manifest.model_copy(update={"files": [*manifest.files, *more]})
        at = {path.name: path for path in folder.iterdir()}
        upload = ours.client.upload({file.sha256: at[file.path] for file in both.files}, "sending")
        body = scanned.registration.model_copy(update={"manifest": both, "upload": upload, "namespace": ours.space})
        with pytest.raises(VerificationFailed, match="what is loaded depends on who loads it"):
            ours.client.register_base(body)

    def test_files_are_set_once_and_by_their_own_namespace(self, ours: Tenant, theirs: Tenant, join: Any) -> None:
        folder = ours.base()
        view = ours.register(folder, upload=True)
        (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
        with pytest.raises(Conflict, match="has its files already"):
            ours.register(folder, upload=True)
        other = theirs.register(theirs.base(like=folder), upload=True)
        assert (other.fingerprint, other.namespace) == (view.fingerprint, theirs.space)
        with pytest.raises(NotFound):
            theirs.client.locate(_without(folder, ours).digest)
        boss = join(ours.space, Role.ADMIN)
        assert not boss.client.fix_base(view.fingerprint, namespace=ours.space, forget_files=True).uploaded
        assert ours.register(folder, upload=True).uploaded

    def test_a_job_is_given_the_files_of_its_own_namespace(self, ours: Tenant, theirs: Tenant, join: Any) -> None:
        folder, rows = ours.base(), ours.folder / "rows.jsonl"
        ours.register(folder, upload=True)
        mine = ours.scan(folder).manifest
        twin = theirs.base(like=folder)
        (twin / "generation_config.json").write_text('{"eos_token_id": 7}')
        theirs.register(twin, upload=True)
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        job = ours.client.submit_training(f"{ours.space}/x", base=mine.base_fingerprint, data=rows)
        worker = join(ours.space, Role.WORKER)
        assignment = Held.claim(worker.client, ours.folder).assignment
        assert assignment.job == job.id
        assert assignment.base is not None
        assert assignment.base.manifest == mine
        assert assignment.namespace == ours.space

    def test_files_that_are_published_serve_who_only_knows_the_folder(
        self, ours: Tenant, admin: Client, join: Any
    ) -> None:
        folder, rows = ours.base("published"), ours.folder / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "published"}\n')
        with pytest.raises(InvalidBase, match="--upload"):
            ours.client.submit_training(f"{ours.space}/x", base=folder, data=rows)
        admin.add_base(folder, upload=True, namespace="*")
        job = ours.client.submit_training(f"{ours.space}/x", base="published", data=rows)
        assignment = Held.claim(join(ours.space, Role.WORKER).client, ours.folder).assignment
        assert assignment.job == job.id
        assert assignment.base is not None
        assert assignment.base.manifest == ours.scan(folder).manifest

    @pytest.mark.parametrize("everywhere", [False, True])
    def test_a_worker_is_asked_only_for_what_it_may_say(
        self, ours: Tenant, admin: Client, join: Any, people: World, everywhere: bool
    ) -> None:
        published, own, rows = ours.base("published"), ours.base("own"), ours.folder / "rows.jsonl"
        rows.write_text(json.dumps({"prompt": "a", "completion": f"asked {everywhere}"}))
        admin.add_base(published, upload=True, namespace="*")
        ours.register(own, upload=True)
        with people.services.db.write() as session:
            # As what earlier releases took unread is recorded.
            session.execute(update(NamedBase).where(NamedBase.id.in_(("published", "own"))).values(facts="claimed"))
        worker = join(ours.space, Role.WORKER, **({"*": Role.WORKER} if everywhere else {}))
        asked = {}
        for folder in (published, own):
            fingerprint = ours.scan(folder).registration.fingerprint
            job = ours.client.submit_training(f"{ours.space}/x", base=fingerprint, data=rows)
            assignment = Held.claim(worker.client, ours.folder).assignment
            assert assignment.job == job.id
            assert assignment.base is not None
            asked[folder.name] = not assignment.base.hashed
        assert asked == {"published": everywhere, "own": True}


def _without(folder: Path, tenant: Tenant) -> Manifest:
    """The manifest of a base before its generation config was added."""
    manifest = tenant.scan(folder).manifest
    files = [file for file in manifest.files if file.path != "generation_config.json"]
    return manifest.model_copy(update={"files": files})


class TestOnANode:
    """What a worker loads: exactly the files that were hashed, whatever lies beside them."""

    @pytest.fixture
    def source(self, ours: Tenant, join: Any) -> Callable[..., tuple[Client, BaseSource]]:
        """Return a function that registers a base and returns a worker, and what that is told of the base."""

        def given(folder: Path, *, upload: bool, **said: Any) -> tuple[Client, BaseSource]:
            ours.register(folder, upload=upload, **said)
            rows = ours.folder / f"{uuid.uuid4().hex}.jsonl"
            rows.write_text(json.dumps({"prompt": rows.name, "completion": "b"}))
            worker = join(ours.space, Role.WORKER)
            shared = {"shared_paths": [str(ours.folder)]}
            worker.client.call("POST", "/workers/hello", type(None), body=_info(**shared))
            fingerprint = ours.scan(folder).registration.fingerprint
            ours.client.submit_training(f"{ours.space}/x", base=fingerprint, data=rows)
            assignment = Held.claim(worker.client, ours.folder, **shared).assignment
            assert assignment.base is not None
            return worker.client, assignment.base

        return given

    def test_what_lies_beside_a_base_is_not_loaded(self, ours: Tenant, source: Any, tmp_path: Path) -> None:
        folder = ours.base()
        client, told = source(folder, upload=False)
        write_safetensors(folder / "adapter_model.safetensors", {"x": [2]})
        (folder / "adapter_config.json").write_text("{}")
        (folder / "model.fp16.safetensors").write_bytes(b"")
        found = _obtain(client, told, tmp_path / "view", ours.folder)
        assert sorted(path.name for path in (tmp_path / "view").iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
        assert found.folder == tmp_path / "view"
        write_safetensors(folder / "model.safetensors", TENSORS, value=-0.5)
        with pytest.raises(InvalidBase, match="its files were changed"):
            _obtain(client, told, tmp_path / "again", ours.folder)

    def test_a_cache_that_was_altered_is_fetched_anew(self, ours: Tenant, source: Any, tmp_path: Path) -> None:
        folder = ours.base()
        client, told = source(folder, upload=True, location=None)
        first = _obtain(client, told, tmp_path / "1", ours.folder)
        weights = (first.folder / "model.safetensors").resolve()
        before = weights.read_bytes()
        weights.chmod(0o600)
        weights.write_bytes(before[:-4] + b"evil")
        again = _obtain(client, told, tmp_path / "2", ours.folder)
        assert (again.folder / "model.safetensors").read_bytes() == before

    def test_a_folder_that_is_not_shared_is_not_looked_into(self, ours: Tenant, source: Any, tmp_path: Path) -> None:
        folder, private = ours.base(), write_base(tmp_path / "private", value=0.9)
        client, told = source(folder, upload=False)
        said = []
        for place in (private, tmp_path, tmp_path / "none", folder / ".." / ".." / ".." / private.name):
            with pytest.raises(NotFound) as caught:
                _obtain(client, told.model_copy(update={"location": place.as_uri()}), tmp_path / "view", ours.folder)
            said.append(caught.value.message)
        # One answer for all of them.
        assert len(set(said)) == 1
        assert str(tmp_path) not in said[0]
        for shared in ((), (tmp_path / "elsewhere",), (Path(f"{ours.folder}-2"),)):
            with pytest.raises(NotFound, match="is not on this node"):
                _obtain(client, told, tmp_path / "view", *shared)
        assert _obtain(client, told, tmp_path / "view", Path("/")).manifest == ours.scan(folder).manifest
        # What lies in the cache is another tenant's, perhaps, and a fingerprint is no secret.
        assert told.fingerprint is not None
        cached = client.cache.base(told.fingerprint)
        cached.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(cached)
        with pytest.raises(NotFound, match="is not on this node"):
            _obtain(client, told.model_copy(update={"location": cached.as_uri()}), tmp_path / "again", Path("/"))
        # What somebody keeps beside its parts is their own.
        beside = cached.rename(client.cache.root / "mine")
        assert _obtain(client, told.model_copy(update={"location": beside.as_uri()}), tmp_path / "again", Path("/"))

    @pytest.mark.parametrize("link", ["folder", "file"])
    def test_no_link_leads_out_of_the_shared_folders(
        self, ours: Tenant, source: Any, tmp_path: Path, link: str
    ) -> None:
        folder = ours.base()
        client, told = source(folder, upload=False)
        moved = tmp_path / "moved"
        if link == "folder":
            folder.rename(moved)
            folder.symlink_to(moved)
        else:
            (folder / "tokenizer.json").rename(moved)
            (folder / "tokenizer.json").symlink_to(moved)
        with pytest.raises(NotFound, match="is not on this node"):
            _obtain(client, told, tmp_path / "view", ours.folder)
        assert _obtain(client, told, tmp_path / "view", ours.folder, moved).folder == tmp_path / "view"

    def test_an_odd_location_is_no_folder(self, ours: Tenant, source: Any, tmp_path: Path) -> None:
        client, told = source(ours.base(), upload=False)
        circle = ours.folder / "circle"
        circle.symlink_to(circle)
        shared = ours.folder.as_uri()
        for location in (circle.as_uri(), f"{shared}/%00", f"file://elsewhere{ours.folder}", f"{shared}/{'x' * 300}"):
            with pytest.raises(NotFound, match="is not on this node"):
                _obtain(client, told.model_copy(update={"location": location}), tmp_path / "view", ours.folder)

    @pytest.mark.parametrize("state", ["changed", "half", "gone"])
    def test_what_is_stale_in_a_folder_is_fetched_from_the_registry(
        self, ours: Tenant, source: Any, tmp_path: Path, state: str
    ) -> None:
        folder = ours.base()
        manifest = ours.scan(folder).manifest
        client, told = source(folder, upload=True)
        if state == "changed":
            write_safetensors(folder / "model.safetensors", TENSORS, value=-0.5)
        else:
            (folder / "model.safetensors").unlink()
        if state == "gone":
            for path in list(folder.iterdir()):
                path.unlink()
        found = _obtain(client, told, tmp_path / "view", ours.folder)
        assert found.manifest == manifest
        assert (found.folder / "model.safetensors").resolve().is_relative_to(client.cache.root)

    def test_a_changed_folder_is_refused_without_a_word_of_what_it_is(
        self, ours: Tenant, source: Any, tmp_path: Path
    ) -> None:
        folder = ours.base()
        client, told = source(folder, upload=False)
        write_safetensors(folder / "model.safetensors", TENSORS, value=-0.25)
        with pytest.raises(InvalidBase, match="its files were changed") as caught:
            _obtain(client, told, tmp_path / "view", ours.folder)
        other = ours.scan(folder).registration.fingerprint[:12]
        assert not {other, str(folder)} & set(caught.value.message.replace(",", " ").split())
        assert other not in caught.value.message

    @pytest.mark.parametrize("upload", [False, True])
    @pytest.mark.parametrize("extra", ["adapter_model.safetensors", "x.json", "model-9.safetensors", "config", "index"])
    def test_a_list_of_other_files_than_a_base_s_is_refused(
        self, ours: Tenant, source: Any, tmp_path: Path, upload: bool, extra: str
    ) -> None:
        folder, shard = ours.base(), "model-1.safetensors"
        (folder / "model.safetensors").rename(folder / shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, shard)}))
        # What is no index until it is given the name of one.
        (folder / "generation_config.json").write_text(json.dumps({"weight_map": {"x": shard}}))
        client, told = source(folder, upload=upload)
        true = ours.scan(folder).manifest
        files = {file.path: file for file in true.files}
        if extra == "config":
            files["config.json"] = files["generation_config.json"].model_copy(update={"path": "config.json"})
        elif extra == "index":
            index = "model.safetensors.index.json"
            files[index] = files["generation_config.json"].model_copy(update={"path": index})
        else:
            files[extra] = files[shard].model_copy(update={"path": extra})
        listed = Manifest(kind="base", base_fingerprint=true.base_fingerprint, files=list(files.values()))
        lying = told.model_copy(update={"manifest": listed})
        assert _obtain(client, told, tmp_path / "true", ours.folder).manifest == true
        with pytest.raises(VerificationFailed, match="are not those of a base"):
            _obtain(client, lying, tmp_path / "view", ours.folder)
        # What no base has is not even fetched.
        assert (tmp_path / "view").exists() == (extra not in ("adapter_model.safetensors", "x.json"))

    def test_workers_that_share_a_cache_use_one_base_at_once(self, ours: Tenant, source: Any, tmp_path: Path) -> None:
        client, told = source(ours.base(), upload=True, location=None)
        _obtain(client, told, tmp_path / "1", ours.folder)
        # As an attempt holds it that trains meanwhile.
        with client.cache.lock(f"base-{told.fingerprint}", shared=True), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_obtain, client, told, tmp_path / "2", ours.folder)
            assert waiting.result(timeout=30).folder == tmp_path / "2"

    def test_a_cache_of_another_tenants_base_gives_ones_own_files(
        self, ours: Tenant, theirs: Tenant, source: Any, tmp_path: Path
    ) -> None:
        folder = ours.base()
        (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
        client, told = source(folder, upload=True, location=None)
        # A node that serves both: the other's base of the same weights is in its cache already.
        twin = theirs.base(like=folder)
        (twin / "generation_config.json").write_text('{"eos_token_id": 7}')
        cached = client.cache.base(told.fingerprint)
        cached.mkdir(parents=True)
        for path in twin.iterdir():
            (cached / path.name).write_bytes(path.read_bytes())
        found = _obtain(client, told, tmp_path / "view", ours.folder)
        assert (found.folder / "generation_config.json").read_text() == '{"eos_token_id": 2}'
        assert found.manifest == ours.scan(folder).manifest


def _obtain(client: Client, told: BaseSource, view: Path, *shared: Path) -> ScannedBase:
    """Obtain a base on a node that sees some folders."""
    settings = WorkerSettings("w1", shared_paths=tuple(map(str, shared)))
    return obtain(client, told, view, lambda _count: None, settings=settings)


def _info(**said: Any) -> WorkerInfo:
    return WorkerInfo(name="w1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33, **said)


def test_whoever_registers_and_whoever_mends_do_not_wait_for_each_other(people: World, space: str) -> None:
    """Both write what is said of the base by its namespaces, and what servers of the release before are told."""
    base = base_registration(space, location="hf://tests/a@1")
    people.services.bases.register(base=base.model_copy(update={"namespace": space}), who=SYSTEM)

    def act(number: int) -> None:
        location = f"hf://tests/a@{number}"
        if number % 2:
            moved = base.model_copy(update={"namespace": space, "location": location})
            people.services.bases.register(base=moved, who=SYSTEM)
        else:
            fix = BaseFix(name=base.fingerprint, namespace=space, location=location)
            people.services.bases.fix(fix=fix, who=SYSTEM)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(80)))
    with people.services.db.read() as session:
        (row,) = session.scalars(select(NamedBase).where(NamedBase.namespace == space)).all()
        assert row.base.location == row.location
