"""Versions: a push is one, numbers count, and publishers at once come apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.registry.helpers import publication, states_of
from support.adapters import base_registration, digest, lora_tensors, save_adapter
from support.people import SEEDS
from support.registries import World
from support.statements import plan_of, sent
from support.stored import lose, names_of

from registry.artifacts.manifests import blobs_of
from registry.catalog.bases.finding import KnownBases
from registry.catalog.publishing.inspecting import find_ancestry
from registry.catalog.publishing.new_version import NewVersion
from registry.catalog.publishing.recording import record_pending, record_ready
from registry.principal import Role
from sdk.client import Client
from sdk.errors import (
    InvalidInput,
    NotFound,
    VerificationFailed,
)
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.manifest import ManifestFile


def publish(client: Client, body: Publication) -> Published:
    return client.call("POST", "/versions", Published, body=body)


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

    def test_the_same_bytes_again_are_the_existing_version(self, writer: Client, name: str, adapter: Path) -> None:
        first = writer.push(adapter, name, base="tiny")
        again = writer.versions.push(adapter, name, base="tiny", description="another word")
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
        world.admin.bases.register(base_registration())
        body = publication(world.writer, adapter, name)
        storage = world.services.artifacts.storage
        (sent,) = names_of(storage, body.manifest.files[1].sha256)
        stored = storage.path_of(sent)
        whole = stored.read_bytes()
        stored.chmod(0o600)
        stored.write_bytes(spoil(whole))
        with pytest.raises(VerificationFailed, match="storage has other bytes"):
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
        plans = [plan_of(embedded.services.db, one) for one in twins]
        lines = [line for plan in plans for line in plan if "versions" in line]
        # The row in its own adapter; and the version whose past a copy has, among those of all adapters.
        known = ("uq_versions_live_digest (adapter_pk=? AND digest=?)", "ix_versions_digest (digest=?)")
        assert {name for name in known if any(f"USING INDEX {name}" in line for line in lines)} == {*known}, plans
        assert not [line for plan in plans for line in plan if "SCAN" in line], plans

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
        new = NewVersion(good, who, None, [])
        with world.services.db.write() as session:
            ancestry = find_ancestry(session, new, KnownBases())
            record_pending(session, new, ancestry)
        world.services.artifacts.verify(upload=good.upload, blobs=blobs_of(good.manifest), who=who)
        # While a slow publisher still reads, one with a wrong record of the same bytes is refused.
        with pytest.raises(VerificationFailed, match="disagree on rank"):
            publish(writer, good.model_copy(update={"lora": good.lora.model_copy(update={"rank": 3})}))
        assert states_of(world, name) == [("failed", None)]
        with world.services.db.write() as session:
            published = record_ready(session, new, ancestry, [], scored=False)
            assert (published.version.number, published.existing) == (1, False)
        assert states_of(world, name) == [("failed", None), ("ready", 1)]

    def test_a_push_that_is_refused_late_leaves_what_another_has_made_of_the_same_bytes(
        self, world: World, writer: Client, name: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good = publication(writer, adapter, name)
        wrong = good.model_copy(update={"lora": good.lora.model_copy(update={"rank": 3})})
        read, made = world.services.artifacts.storage.open, []

        def overtaken(stored_as: str) -> Any:
            if not made:
                made.append(name)
                made.append(publish(writer, good).version.ref)
            return read(stored_as)

        # Between its first look at the bytes and its refusal, another push of them ends well.
        monkeypatch.setattr(world.services.artifacts.storage, "open", overtaken)
        with pytest.raises(VerificationFailed, match="disagree on rank"):
            publish(writer, wrong)
        assert made == [name, f"{name}@v1"]
        assert states_of(world, name) == [("ready", 1)]
        assert writer.get(name).ref == f"{name}@v1"

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

    def test_an_upload_is_of_one_user_and_of_what_it_announced(
        self, world: World, writer: Client, name: str, adapter: Path
    ) -> None:
        body = publication(writer, adapter, name)
        with pytest.raises(NotFound, match="upload session"):
            publish(writer, body.model_copy(update={"upload": "0" * 32}))
        other = writer.uploader.upload(
            {hash_file(adapter / "adapter_config.json")[0]: adapter / "adapter_config.json"}, ""
        )
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

    def test_adapters_come_in_pages(self, world: World, writer: Client, name: str, tmp_path: Path) -> None:
        names = [f"{name}-{letter}" for letter in "abc"]
        for seed, each in enumerate(names):
            writer.push(save_adapter(tmp_path / f"{seed}", next(SEEDS)), each, base="tiny")
        first = world.http.get("/api/v1/adapters", params={"prefix": name, "limit": 1}).json()
        page = world.http.get("/api/v1/adapters", params={"prefix": name, "limit": 2, "cursor": first["next"]}).json()
        assert [found["adapter"] for found in page["items"]] == names[1:]
