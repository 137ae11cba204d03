"""Bases with files, and bases on a node."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from contract.bases.helpers import VALUES, Tenant
from sqlalchemy import select, update
from support.adapters import base_registration
from support.calls import worker_info
from support.registries import World
from support.small import TENSORS, write_base, write_safetensors
from support.working import Held

from registry.catalog.models import NamedBase
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidBase, InvalidInput, NotFound, VerificationFailed
from sdk.formats import base_files
from sdk.pulling.transfer import hash_file
from sdk.pushing.base_folder import ScannedBase
from sdk.schemas.catalog import BaseFix
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import BaseSource
from workers.node.bases import obtain
from workers.settings import WorkerSettings


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
        with pytest.raises(VerificationFailed, match="this is not a base"):
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
        upload = ours.client.uploader.upload({file.sha256: at[file.path] for file in files}, "sending")
        body = scanned.registration.model_copy(update={"manifest": lying, "upload": upload, "namespace": ours.space})
        with pytest.raises(VerificationFailed, match="disagree on the tensor"):
            ours.client.bases.register(body)

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
        upload = ours.client.uploader.upload({file.sha256: folder / file.path for file in files}, "sending")
        said = {"manifest": hostile, "fingerprint": fingerprint, "upload": upload, "namespace": ours.space}
        with pytest.raises(VerificationFailed, match=f"this is not a base: {name}"):
            ours.client.bases.register(scanned.registration.model_copy(update=said))

    @pytest.mark.parametrize("upload", [True, False])
    def test_a_config_that_no_model_can_be_of_is_refused_whoever_read_it(self, ours: Tenant, *, upload: bool) -> None:
        folder = ours.base(hidden_size=24, num_attention_heads=6, num_key_value_heads=4)
        wrong = folder / "config.json"
        content = wrong.read_bytes()
        with pytest.raises(InvalidBase, match="num_key_value_heads = 4 for 6 heads"):
            ours.scan(folder)
        right = json.loads(content) | {"num_key_value_heads": 3}
        wrong.write_text(json.dumps(right))
        scanned = ours.scan(folder)
        other = _add(folder, "config.json", content)
        files = [other if file.path == other.path else file for file in scanned.manifest.files]
        config = json.loads(content)
        fingerprint = base_files.identify(config, {file.path: file.sha256 for file in files}).fingerprint
        said: dict[str, Any] = {
            "manifest": Manifest(kind="base", base_fingerprint=fingerprint, files=files),
            "fingerprint": fingerprint,
            "config": config,
            "namespace": ours.space,
        }
        if upload:
            said["upload"] = ours.client.uploader.upload({file.sha256: folder / file.path for file in files}, "sending")
        with pytest.raises(
            VerificationFailed, match=r"this is not a base: config\.json says num_key_value_heads = 4 for 6"
        ):
            ours.client.bases.register(scanned.registration.model_copy(update=said))

    def test_a_base_with_one_file_and_an_index_of_others_is_refused(self, ours: Tenant) -> None:
        folder = ours.base()
        manifest = ours.scan(folder).manifest
        shard = "model-00001-of-00001.safetensors"
        write_safetensors(folder / shard, TENSORS, value=next(VALUES) / 1000)
        content = (folder / shard).read_bytes()
        index = json.dumps({"weight_map": dict.fromkeys(TENSORS, shard)}).encode()
        more = [_add(folder, shard, content), _add(folder, "model.safetensors.index.json", index)]
        with pytest.raises(InvalidInput, match="different programs would load different weights"):
            ours.client.bases.add(folder, upload=True)
        (folder / "model.safetensors.index.json").unlink()
        scanned = ours.scan(folder)
        (folder / "model.safetensors.index.json").write_bytes(index)
        both = manifest.model_copy(update={"files": [*manifest.files, *more]})
        at = {path.name: path for path in folder.iterdir()}
        upload = ours.client.uploader.upload({file.sha256: at[file.path] for file in both.files}, "sending")
        body = scanned.registration.model_copy(update={"manifest": both, "upload": upload, "namespace": ours.space})
        with pytest.raises(VerificationFailed, match="different programs would load different weights"):
            ours.client.bases.register(body)

    def test_files_are_set_once_and_by_their_own_namespace(self, ours: Tenant, theirs: Tenant, join: Any) -> None:
        folder = ours.base()
        view = ours.register(folder, upload=True)
        (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
        with pytest.raises(Conflict, match="already has other files"):
            ours.register(folder, upload=True)
        other = theirs.register(theirs.base(like=folder), upload=True)
        assert (other.fingerprint, other.namespace) == (view.fingerprint, theirs.space)
        with pytest.raises(NotFound):
            theirs.client.versions.locate(_without(folder, ours).digest)
        boss = join(ours.space, Role.ADMIN)
        assert not boss.client.bases.fix(view.fingerprint, namespace=ours.space, forget_files=True).uploaded
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
        assert assignment.base.manifest == mine
        assert assignment.namespace == ours.space

    def test_files_that_are_published_serve_who_only_knows_the_folder(
        self, ours: Tenant, admin: Client, join: Any
    ) -> None:
        folder, rows = ours.base("published"), ours.folder / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "published"}\n')
        with pytest.raises(InvalidBase, match="upload"):
            ours.client.submit_training(f"{ours.space}/x", base=folder, data=rows)
        admin.bases.add(folder, upload=True, namespace="*")
        job = ours.client.submit_training(f"{ours.space}/x", base="published", data=rows)
        assignment = Held.claim(join(ours.space, Role.WORKER).client, ours.folder).assignment
        assert assignment.job == job.id
        assert assignment.base.manifest == ours.scan(folder).manifest

    @pytest.mark.parametrize("everywhere", [False, True])
    def test_a_worker_is_asked_only_for_what_it_may_say(
        self, ours: Tenant, admin: Client, join: Any, people: World, everywhere: bool
    ) -> None:
        published, own, rows = ours.base("published"), ours.base("own"), ours.folder / "rows.jsonl"
        rows.write_text(json.dumps({"prompt": "a", "completion": f"asked {everywhere}"}))
        admin.bases.add(published, upload=True, namespace="*")
        ours.register(own, upload=True)
        with people.services.db.write() as session:
            # As if nobody had read them.
            session.execute(update(NamedBase).where(NamedBase.id.in_(("published", "own"))).values(facts="claimed"))
        worker = join(ours.space, Role.WORKER, **({"*": Role.WORKER} if everywhere else {}))
        asked = {}
        for folder in (published, own):
            fingerprint = ours.scan(folder).registration.fingerprint
            job = ours.client.submit_training(f"{ours.space}/x", base=fingerprint, data=rows)
            assignment = Held.claim(worker.client, ours.folder).assignment
            assert assignment.job == job.id
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
            worker.client.call("POST", "/workers/hello", type(None), body=worker_info(**shared))
            fingerprint = ours.scan(folder).registration.fingerprint
            ours.client.submit_training(f"{ours.space}/x", base=fingerprint, data=rows)
            assignment = Held.claim(worker.client, ours.folder, **shared).assignment
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
        with pytest.raises(InvalidBase, match="they were changed"):
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
        with pytest.raises(InvalidBase, match="they were changed") as caught:
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
        with pytest.raises(VerificationFailed, match="can't be a base"):
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


def test_whoever_registers_and_whoever_mends_do_not_wait_for_each_other(people: World, space: str) -> None:
    """Both write what is said of the base by its namespaces."""
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
        assert (row.location or "").startswith("hf://tests/a@")
