"""Bases as records: whose names they are, and facts that are mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from contract.bases.helpers import VALUES, Tenant
from support.adapters import base_registration, digest
from support.fixtures import Limits
from support.registries import World
from support.small import TENSORS, write_adapter, write_safetensors
from support.work import watched

from registry.artifacts.blob_check import Passing
from registry.artifacts.service import Artifacts
from registry.catalog.bases import service
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidBase, NotAllowed, NotFound, VerificationFailed
from sdk.formats import base_files

#: Shapes that are not those of `write_base`'s weights.
TWICE = {name: [2 * size for size in shape] for name, shape in TENSORS.items()}


def test_names_of_a_base_that_is_said_again_are_gone_through_before_its_transaction(
    people: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = base_registration("said-again", tensors={f"layers.{n}.w.weight": [8, 8] for n in range(300)})
    with watched(people.services.db, monkeypatch) as transactions:
        for _ in range(2):
            people.admin.bases.register(described)
    _, again = (one for one in transactions if one.wrote("named_bases"))
    assert not again.read("tensors")


class TestNames:
    def test_an_id_of_a_namespace_is_of_no_concern_to_others(self, ours: Tenant, theirs: Tenant, admin: Client) -> None:
        mine, published, hostile = ours.base(), ours.base(), theirs.base()
        shared = admin.bases.add(published, id="everyone-s-llama", namespace="*")
        assert admin.bases.get("everyone-s-llama", namespace=ours.space).namespace == "*"
        theirs.register(hostile, id="everyone-s-llama")
        assert ours.client.bases.get("everyone-s-llama").fingerprint == shared.fingerprint
        ours.register(mine, id="llama")
        theirs.register(hostile, id="llama")
        assert ours.client.bases.get("llama").fingerprint == ours.scan(mine).registration.fingerprint
        assert {base.namespace for base in ours.client.bases()} == {ours.space, "*"}
        with pytest.raises(NotFound):
            ours.client.bases.get(theirs.scan(hostile).registration.fingerprint)

    def test_an_id_moves_only_within_its_namespace_and_says_so(self, ours: Tenant, theirs: Tenant) -> None:
        first = ours.register(ours.base(), id="llama")
        assert first.replaces is None
        assert theirs.register(theirs.base(), id="llama").replaces is None
        assert ours.client.bases.get("llama").fingerprint == first.fingerprint
        second = ours.register(ours.base(), id="llama")
        assert second.replaces == first.fingerprint
        assert ours.client.bases.get("llama").fingerprint == second.fingerprint

    def test_an_id_that_is_said_again_means_that_base_again(self, ours: Tenant) -> None:
        folder = ours.base()
        first = ours.register(folder, id="llama")
        second = ours.register(ours.base(), id="llama")
        assert ours.client.bases.get("llama").fingerprint == second.fingerprint
        again = ours.register(folder, id="llama")
        assert (again.fingerprint, again.replaces) == (first.fingerprint, second.fingerprint)
        assert ours.client.bases.get("llama").fingerprint == first.fingerprint
        assert ours.register(folder, id="llama").replaces is None

    def test_a_worker_moves_no_id_and_sets_no_files(self, ours: Tenant, join: Any) -> None:
        worker = join(ours.space, Role.WORKER)
        meant, found = ours.register(ours.base(), id="llama"), ours.base()
        said = worker.register(found, id="llama", namespace=ours.space)
        assert (said.replaces, said.facts) == (None, "hashed")
        assert ours.client.bases.get("llama").fingerprint == meant.fingerprint
        with pytest.raises(NotAllowed, match="write"):
            worker.register(found, id="llama", namespace=ours.space, upload=True)
        # Whoever may write says otherwise.
        assert ours.register(found, id="llama").replaces == meant.fingerprint
        assert ours.client.bases.get("llama").fingerprint == said.fingerprint

    def test_a_base_in_the_place_of_one_that_was_taken_away_is_itself(
        self, ours: Tenant, admin: Client, tmp_path: Path
    ) -> None:
        """SQLite gives the key of the last row again once that is gone."""
        first = ours.register(ours.base(), id="first")
        ours.client.push(write_adapter(tmp_path / "a", value=0.25), f"{ours.space}/a", base="first")
        admin.bases.remove("first", namespace=ours.space)
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
            assert client.bases.add(folder, id="everyones", upload=upload, namespace=wanted).namespace == found
        for place, location in ((folder, None), (writer.base(), "file:///elsewhere")):
            with pytest.raises(NotAllowed, match="register it for one namespace with: namespace=") as caught:
                writer.register(place, id="everyones", location=location, upload=upload, namespace="*")
            assert caught.value.param == "namespace"
        published = admin.bases.get("everyones", namespace="*")
        assert (published.fingerprint, published.uploaded) == (writer.scan(folder).registration.fingerprint, upload)
        assert published.location == admin.bases.get("everyones", namespace="team").location

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
            ours.client.bases.fix("typo", namespace=ours.space, id="right")
        boss = join(ours.space, Role.ADMIN)
        fixed = boss.client.bases.fix("typo", namespace=ours.space, id="right", location="file:///right")
        assert (fixed.id, fixed.location, fixed.fingerprint) == ("right", "file:///right", view.fingerprint)
        pushed = ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/x", base="right")
        with pytest.raises(NotAllowed):
            ours.client.bases.remove("right", namespace=ours.space)
        boss.client.bases.remove("right")
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
        shown = ours.client.bases.get(view.fingerprint)
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
        seen = theirs.client.bases.get(claimed.fingerprint)
        assert (seen.facts, seen.size_bytes, seen.config) == ("claimed", 1, {"model_type": "x"})
        # Whose files they are is told what the fingerprint covers, and that it is derived.
        own = ours.client.bases.get(uploaded.fingerprint)
        assert own.facts == "derived"
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
        shown = ours.client.bases.get(view.fingerprint)
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
        assert (
            ours.client.bases.get(own.fingerprint).size_bytes
            == ours.scan(folder).manifest.size_bytes
            < others.size_bytes
        )

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

    def test_so_many_files_are_no_base(self, ours: Tenant, limits: Limits) -> None:
        limits(base_files, MAX_WEIGHT_FILES=0)
        with pytest.raises(InvalidBase, match="save it in larger ones"):
            ours.scan(ours.base())

    def test_a_worker_that_has_hashed_a_base_says_what_it_is(self, ours: Tenant, join: Any) -> None:
        folder = ours.base()
        view = ours.register(folder, tensors={"a": [1]})
        assert view.facts == "claimed"
        worker = join(ours.space, Role.WORKER)
        assert worker.register(folder, id="other", location="file:///elsewhere").facts == "hashed"
        shown = ours.client.bases.get(view.fingerprint)
        # What it is called, and where it lies, a worker does not say.
        assert (shown.id, shown.location, shown.facts) == (view.id, view.location, "hashed")
        assert ours.register(folder, tensors={"a": [1]}).facts == "hashed"


BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


@pytest.fixture
def rows(ours: Tenant) -> Path:
    ours.folder.mkdir(parents=True, exist_ok=True)
    path = ours.folder / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "of an encoder"}))
    return path


class TestEncoders:
    def test_a_folder_is_refused_before_anything_is_sent(self, ours: Tenant, rows: Path) -> None:
        with pytest.raises(InvalidBase, match=r"is an encoder \(bert\)") as caught:
            ours.client.submit_training(f"{ours.space}/x", base=ours.base("sent", **BERT), data=rows)
        assert caught.value.param == "base"
        assert "sent" not in {base.id for base in ours.client.bases()}

    def test_a_registered_one_is_refused_by_the_registry(self, ours: Tenant, rows: Path) -> None:
        view = ours.register(ours.base("known", **BERT), upload=True)
        with pytest.raises(InvalidBase, match=r"base known .* is an encoder \(bert\)"):
            ours.client.submit_training(f"{ours.space}/x", base=view.fingerprint, data=rows)
        with pytest.raises(InvalidBase, match=r"is an encoder \(bert\)"):
            ours.client.submit_evaluation(f"base:{view.fingerprint}", data=rows)
        decoder = ours.register(ours.base("decoder", **BERT, is_decoder=True), upload=True)
        ours.client.submit_training(f"{ours.space}/x", base=decoder.fingerprint, data=rows, targets="q_proj,v_proj")

    def test_what_says_it_is_causal_is_no_version_over_one(self, ours: Tenant) -> None:
        view = ours.register(ours.base("encoder", **BERT), upload=True)
        with pytest.raises(
            VerificationFailed, match=r"says CAUSAL_LM, but the base is not causal: it is an encoder \(bert\)"
        ):
            ours.client.push(write_adapter(ours.folder / "a"), f"{ours.space}/a", base=view.fingerprint)
        other = write_adapter(ours.folder / "b", task_type="FEATURE_EXTRACTION")
        pushed = ours.client.push(other, f"{ours.space}/b", base=view.fingerprint)
        assert pushed.info.lora.task_type == "FEATURE_EXTRACTION"
