"""Merged models as versions: their record, their files, their names, and what of a worker's result is let in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select
from support import registries
from support.merging_desk import Change, MergingDesk, value, write_shards
from support.people import package, submit
from support.registries import World
from support.small import TENSORS, write_adapter, write_safetensors
from support.usage import begin, by_kind, differing

from registry.artifacts.models import ManifestBlob, ManifestRow
from registry.catalog.models import Adapter, Version
from registry.catalog.versions.finding import find_version, parse_ref
from registry.catalog.versions.numbering import give_number, lock_counters, require_kind
from registry.errors import Conflict as RegistryConflict
from registry.principal import LOCAL, Role
from registry.quotas.service import recount
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, InvalidName, NotFound, VerificationFailed
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.catalog import Published
from sdk.schemas.evaluation import UNMEASURED, ReadBack
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.version_facts import facts_of
from sdk.schemas.work import Release


class TestRecord:
    def test_it_is_that_of_the_job_and_of_the_adapter(self, own_desk: MergingDesk) -> None:
        ref = own_desk.push()
        job = own_desk.submit(f"{own_desk.space}/a", onto="original")
        assert (job.view.subject, job.view.request["register_as"]) == (ref, own_desk.named("m"))
        held = own_desk.claim()
        result = own_desk.result(own_desk.model())
        done = own_desk.complete(held, result)
        merged = job.result()
        assert (merged.ref, merged.registered, merged.existing) == (ref, f"{own_desk.space}/m@v1", False)
        assert done.result["report"]["onto"] == "original"
        version = merged.version
        assert version.digest == merged.digest == result.manifest.digest
        info, adapter = version.info, own_desk.writer.get(ref).info
        assert (info.kind, info.base) == ("merged", adapter.base)
        assert [(one.ref, one.relation) for one in info.parents] == [(ref, "merged-from")]
        assert (info.lora, info.method, info.quantization, info.dataset) == (adapter.lora, "lora", None, None)
        assert info.training == {
            "merge_onto": "original",
            "merge_dtype": "float32",
            "read_back_tensors": len(TENSORS),
            "read_back_copied": 3,
            "read_back_rows": 2,
            "read_back_prompts": "run",
        }
        assert (info.metrics, info.libraries) == ({"logit_kl_original": 1e-9}, {"torch": "2"})
        assert info.warnings == ["Rounding took it."]
        assert (info.job.id, info.job.attempt) == (held.job, held.attempt)
        assert info.reported == [
            "libraries",
            "metrics",
            "training.merge_dtype",
            "training.read_back_copied",
            "training.read_back_prompts",
            "training.read_back_rows",
            "training.read_back_tensors",
        ]
        # What it adds to its base is what its adapter does.
        norms, own = own_desk.writer.versions.norms(version.ref), own_desk.writer.versions.norms(ref)
        assert (norms.ref, norms.digest, norms.norms) == (version.ref, version.digest, own.norms)
        assert version.as_dict()["norms"] == own.norms

    def test_its_files_are_stored_by_shard_and_those_of_the_base_are_its_blobs(
        self, people: World, desk: MergingDesk, tmp_path: Path
    ) -> None:
        number = value()
        out = desk.model(lambda folder: write_shards(folder, held=number))
        sizes = {path.name: hash_file(path) for path in out.iterdir()}
        view = begin(
            desk.worker, desk.space, *(BlobSpec(sha256=sha256, size_bytes=size) for sha256, size in sizes.values())
        )
        sent = {put.sha256 for put in view.put}
        assert {name for name, (sha256, _) in sizes.items() if sha256 not in sent} == {"config.json", "tokenizer.json"}
        result = desk.merged(desk.push(), out=out)
        fresh = Client(people.url, people.token(Role.READER), cache=tmp_path / "fresh")
        pulled = fresh.pull(result["version"], tmp_path / "pulled")
        # Pulled again over an older version of the name.
        second = desk.merged(f"{desk.space}/a", out=desk.model())
        assert second["version"] == f"{desk.space}/m@v2"
        names = sorted(path.name for path in out.iterdir())
        assert sorted(path.name for path in pulled.iterdir() if path.is_file()) == names
        for name in names:
            assert (pulled / name).read_bytes() == (out / name).read_bytes()
        plan = fresh.puller.plan(second["version"])
        assert {file.path: file.cached for file in plan.files} == {
            "config.json": True,
            "model.safetensors": False,
            "tokenizer.json": True,
        }
        fresh.pull(second["version"], tmp_path / "pulled")
        assert not list((tmp_path / "pulled").glob("*.index.json"))
        assert fresh.versions.verify(second["version"]).kind == "merged"
        fresh.close()
        shared = {file.path: file.sha256 for file in desk.writer.get(second["version"]).info.files}
        with people.services.db.read() as session:
            kinds = select(ManifestRow.kind).join(ManifestBlob).where(ManifestBlob.sha256 == shared["tokenizer.json"])
            assert {"base", "merged"} <= set(session.scalars(kinds))

    def test_it_has_aliases_is_put_away_and_deleted_as_any_version(
        self, people: World, desk: MergingDesk, admin: Client
    ) -> None:
        ref = desk.merged(desk.push())["version"]
        desk.writer.set_alias(desk.named("m"), "production", 1)
        assert desk.writer.get(f"{desk.space}/m@production").info.aliases == ["production"]
        desk.writer.aliases.remove(desk.named("m"), "production")
        desk.writer.versions.archive(ref)
        assert desk.writer.versions(desk.named("m")) == []
        assert desk.writer.versions.restore(ref).info.state == "ready"
        assert [(one.adapter, one.kind) for one in desk.writer.adapters(namespace=desk.space)] == [
            (desk.named("a"), "adapter"),
            (desk.named("m"), "merged"),
        ]
        (found,) = desk.writer.search(f"name = {desk.named('m')} and kind = merged")
        assert (found.ref, found.kind) == (ref, "merged")
        digest = desk.writer.get(ref).digest
        admin.versions.delete(ref)
        with pytest.raises(NotFound):
            desk.writer.versions.locate(digest)
        assert differing(people) == {}

    def test_the_lineage_has_it_as_a_version_and_not_twice(self, desk: MergingDesk) -> None:
        ref = desk.push()
        version = desk.merged(ref)["version"]
        below = desk.writer.lineage(ref, direction="down")
        assert {node.key for node in below.nodes} == {ref, version}
        assert [(edge.source, edge.target, edge.relation) for edge in below.edges] == [(version, ref, "merged-from")]
        assert {node.key: node.merged for node in below.nodes if node.kind == "version"} == {ref: False, version: True}
        above = desk.writer.lineage(version, direction="up")
        assert {node.kind for node in above.nodes} == {"version", "base", "job"}


class TestOnceOnly:
    def test_an_attempt_that_died_after_it_had_sent_leaves_no_second_version(
        self, people: World, desk: MergingDesk
    ) -> None:
        ref = desk.push()
        desk.submit(ref)
        out, held = desk.model(), desk.claim()
        first = desk.result(out)
        # The worker is gone; the next attempt writes the same bytes.
        desk.worker.call("POST", f"/jobs/{held.job}/release", JobView, body=Release(attempt=held.attempt))
        again = desk.claim()
        assert (again.job, again.attempt) == (held.job, held.attempt + 1)
        with pytest.raises(Conflict):
            desk.complete(held, first)
        assert desk.writer.jobs.view(held.job).state == "running"
        result = desk.result(out)
        done = desk.complete(again, result)
        assert desk.complete(again, result).result == done.result
        assert [one.ref for one in desk.writer.versions(desk.named("m"))] == [f"{desk.space}/m@v1"]
        assert differing(people) == {}

    def test_the_same_bytes_by_another_job_are_the_version_that_is_there(self, desk: MergingDesk) -> None:
        ref, out = desk.push(), desk.model()
        first, second = desk.merged(ref, out=out), desk.merged(ref, out=out)
        assert (first["version"], first["existing"]) == (second["version"], False)
        assert second["existing"] is True

    def test_a_model_that_was_merged_before_is_paid_for_once(
        self, people: World, desk: MergingDesk, admin: Client
    ) -> None:
        ref, out = desk.push(), desk.model()
        size = sum(path.stat().st_size for path in out.iterdir())
        before = by_kind(admin.quotas.get(desk.space))
        assert "version" not in desk.merged(ref, None, out)
        assert by_kind(admin.quotas.get(desk.space)) == before | {"merged_bytes": size}
        version = desk.merged(ref, out=out)["version"]
        own = before | {"versions_bytes": before["versions_bytes"] + size}
        assert by_kind(admin.quotas.get(desk.space)) == own
        # A merge of the same that is not registered has no more to pay.
        desk.merged(ref, None, out)
        assert by_kind(admin.quotas.get(desk.space)) == own
        assert differing(people) == {}
        admin.versions.delete(version)
        assert by_kind(admin.quotas.get(desk.space)) == before
        assert differing(people) == {}


def changing(**config: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))

    return change


def holding(change: Callable[[dict[str, list[int]]], Any]) -> Change:
    def write(folder: Path) -> None:
        tensors = dict(TENSORS)
        change(tensors)
        write_safetensors(folder / "model.safetensors", tensors, value=value())

    return write


def sharded(change: Callable[[dict[str, str]], Any]) -> Change:
    def write(folder: Path) -> None:
        write_shards(folder, held=value())
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    return write


def unindexed(folder: Path) -> None:
    write_shards(folder, held=value())
    (folder / "model.safetensors.index.json").unlink()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


Q = "model.layers.0.self_attn.q_proj.weight"


class TestAdmission:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda folder: (folder / "config.json").unlink(), "not a whole model: a base needs its config.json"),
            (lambda folder: (folder / "model.safetensors").unlink(), "not a whole model: a base needs its weights"),
            (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "extra.bin is pickled or is code"),
            (lambda folder: (folder / "modeling.py").write_bytes(b"x"), "would run when it is loaded"),
            (lambda folder: (folder / "notes.txt").write_bytes(b"x"), "'notes.txt' is not a file of a base"),
            (cut, "model.safetensors is not a complete safetensors file"),
            (sharded(lambda where: where.pop(Q)), f"disagree on the tensor '{Q}'"),
            (sharded(lambda where: where.update({Q: "model-00002-of-00002.safetensors"})), "disagree on the tensor"),
            (unindexed, "but no model.safetensors.index.json says so"),
            (holding(lambda tensors: tensors.pop(Q)), "the model has 4 tensors, and its merge has read back 5"),
            (
                holding(lambda tensors: tensors.update({Q: [8, 4]})),
                f"the tensor '{Q}' is 8×4, and that of base .* is 8×8",
            ),
            (changing(hidden_size=16), "config.json says another hidden_size than base"),
            (changing(quantization_config={"load_in_4bit": True}), "packed in 4 bits by bitsandbytes, but none is"),
            (changing(compression_config={}), "says compression_config, and a merged model is stored wide"),
            (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json is neither the base's nor"),
        ],
    )
    def test_what_is_not_this_base_with_other_numbers_is_refused(
        self, people: World, desk: MergingDesk, change: Change, said: str
    ) -> None:
        desk.submit(desk.push())
        held = desk.claim()
        with pytest.raises(VerificationFailed, match=said) as caught:
            desk.complete(held, desk.result(desk.model(change)))
        assert "; merge it again" in caught.value.message or "convert" in caught.value.message
        assert desk.writer.jobs.view(held.job).state == "running"
        with pytest.raises(NotFound):
            desk.writer.get(desk.named("m"))
        # The same job may still hand in what it was asked for.
        done = desk.complete(held, desk.result(desk.model()))
        assert done.state == "succeeded"
        assert differing(people) == {}

    def test_what_a_merge_may_change_is_let_in(self, desk: MergingDesk) -> None:
        change = changing(dtype="bfloat16", torch_dtype="bfloat16", _name_or_path="x", transformers_version="5.0")
        assert desk.merged(desk.push(), out=desk.model(change))["version"] == f"{desk.space}/m@v1"

    def test_what_was_not_read_back_is_no_version(self, desk: MergingDesk) -> None:
        desk.submit(desk.push())
        held = desk.claim()
        with pytest.raises(VerificationFailed, match=r"has read nothing .*; upgrade the worker"):
            desk.complete(held, desk.result(desk.model(), read_back=None))
        with pytest.raises(InvalidInput, match="a manifest of the kind 'merged'"):
            desk.complete(held, desk.result(desk.model(), kind="adapter"))

    def test_one_that_was_not_measured_says_so_and_only_if_that_was_wanted(self, desk: MergingDesk) -> None:
        ref = desk.push()
        unmeasured = ReadBack(tensors=len(TENSORS), copied=3, rows=2, prompts=UNMEASURED)
        result = desk.result(desk.model(), read_back=unmeasured, metrics={})
        desk.submit(ref, onto="original")
        held = desk.claim()
        assert "measure" not in desk.writer.jobs.view(held.job).request["spec"]
        with pytest.raises(VerificationFailed, match="measure"):
            desk.complete(held, result)
        desk.complete(held, desk.result(desk.model()))
        desk.submit(ref, onto="original", measure=False)
        version = desk.writer.get(desk.complete(desk.claim(), result).result["version"])
        assert version.info.training["read_back_prompts"] == UNMEASURED
        assert f"prompts {UNMEASURED}" in dict(facts_of(version.info, None, size=str))["read back"]

    def test_the_nearer_of_two_bases_is_kept_only_where_it_is_measured(self, desk: MergingDesk, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "adapter", value=value())
        ref = desk.writer.push(
            folder, desk.named("a"), base=desk.base.fingerprint, method="qlora", quantization=QuantizationRecipe()
        ).ref
        with pytest.raises(InvalidInput, match="has to measure; merge onto original, or onto dequantized") as caught:
            desk.submit(ref, measure=False)
        assert caught.value.param == "measure"
        for onto in ("original", "dequantized"):
            assert desk.submit(ref, None, onto=onto, measure=False).view.request["spec"]["measure"] is False

    def test_nobody_but_its_job_publishes_one(self, desk: MergingDesk, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "pushed")
        body = package(folder, tmp_path, desk.named("m"))
        merged = body.model_copy(update={"manifest": body.manifest.model_copy(update={"kind": "merged"})})
        with pytest.raises(InvalidInput, match="becomes one with: adapterctl merge REF --register NAME"):
            desk.writer.call("POST", "/versions", Published, body=merged)


class TestNames:
    def test_a_name_has_versions_of_one_kind(self, desk: MergingDesk, admin: Client, rows: Path) -> None:
        ref = desk.push()
        with pytest.raises(Conflict, match=rf"the versions of {desk.space}/a are adapters, .*{desk.space}/a-merged"):
            desk.submit(ref, "a")
        desk.merged(ref)
        said = rf"the versions of {desk.space}/m are merged models, so no adapter becomes one of them; choose another"
        # Also when all of them are gone: a ref never meant an adapter there.
        admin.versions.delete(f"{desk.space}/m@v1")
        with pytest.raises(Conflict, match=said):
            desk.push("m")
        data = desk.writer.datasets.add(rows, namespace=desk.space).digest
        choice = BaseChoice(id=desk.base.id, fingerprint=desk.base.fingerprint)
        request = TrainingRequest(adapter=desk.named("m"), base=choice, data=data)
        with pytest.raises(Conflict, match=said):
            submit(desk.writer, JobSubmission(request=request))
        with pytest.raises(Conflict, match=said):
            desk.writer.submit_combine(desk.named("m"), {ref: 1.0})

    def test_a_training_under_way_does_not_lose_its_name(self, desk: MergingDesk, rows: Path) -> None:
        ref = desk.push()
        desk.submit(ref, "n")
        held, result = desk.claim(), desk.result(desk.model())
        data = desk.writer.datasets.add(rows, namespace=desk.space).digest
        choice = BaseChoice(id=desk.base.id, fingerprint=desk.base.fingerprint)
        request = TrainingRequest(adapter=desk.named("n"), base=choice, data=data)
        training = submit(desk.writer, JobSubmission(request=request)).id
        said = f"job {training}, a training, is to make a version of {desk.space}/n, so no merged model becomes one"
        with pytest.raises(Conflict, match=said):
            desk.submit(ref, "n")
        with pytest.raises(Conflict, match=said):
            desk.complete(held, result)
        desk.writer.jobs.cancel(training)
        assert desk.complete(held, result).state == "succeeded"

    def test_a_name_that_was_taken_meanwhile_ends_the_job(self, people: World, desk: MergingDesk) -> None:
        desk.submit(desk.push())
        held, result = desk.claim(), desk.result(desk.model())
        desk.push("m")
        with pytest.raises(Conflict, match="are adapters, so no merged model becomes one of them"):
            desk.complete(held, result)
        assert [one.info.kind for one in desk.writer.versions(desk.named("m"))] == ["adapter"]
        assert differing(people) == {}

    def test_whoever_waits_for_the_other_s_lock_sees_what_became_of_the_name(
        self, people: World, desk: MergingDesk
    ) -> None:
        ref, name, db = desk.push(), desk.named("raced"), people.services.db
        with db.write() as session:
            session.add(Adapter(name=name, namespace=desk.space, created_by="t"))
        locked = threading.Event()

        def number_an_adapter() -> None:
            with db.write() as session:
                counters = lock_counters(session, name)
                locked.set()
                # The other waits by then.
                time.sleep(0.3)
                columns = {column.key: getattr(found, column.key) for column in inspect(Version).column_attrs}
                del columns["pk"]
                version = Version(**{**columns, "adapter_pk": counters.adapter_pk, "number": None})
                give_number(session, version, counters, name, 0)

        def look() -> None:
            with db.write() as session:
                counters = lock_counters(session, name)
                assert counters.last_number == 1
                require_kind(session, counters, name, "merged")

        with db.read() as session:
            found = find_version(session, parse_ref(ref), LOCAL)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(number_an_adapter)
            locked.wait()
            with pytest.raises(RegistryConflict, match="are adapters, so no merged model becomes one of them"):
                pool.submit(look).result()
            first.result()
        # Others hold all that is counted against what is there.
        recount(db, within_s=60.0)

    def test_it_is_of_the_adapter_s_namespace(self, desk: MergingDesk) -> None:
        ref = desk.push()
        for name in ("m", "elsewhere/m"):
            with pytest.raises(InvalidInput, match=f"register it under a name of the namespace {desk.space}") as caught:
                desk.writer.submit_merge(ref, register=name)
            assert caught.value.param == "register_as"
        with pytest.raises(InvalidName):
            desk.writer.submit_merge(ref, register="no name")

    def test_what_is_quarantined_is_not_registered_by_the_back_door(self, people: World, desk: MergingDesk) -> None:
        ref = desk.push()
        with people.services.db.write() as session:
            row = find_version(session, parse_ref(ref), LOCAL)
            row.state, row.number, digest = "quarantined", None, row.digest
        with pytest.raises(InvalidInput, match=r"is quarantined, .*: adapterctl release"):
            desk.submit(f"{desk.space}/a@sha256:{digest}")


class TestQuarantine:
    def test_what_admission_refuses_is_kept_where_the_registry_keeps_it(self, tmp_path: Path) -> None:
        with registries.served(tmp_path / "strict", gate="quarantine") as world:
            desk = MergingDesk.open(world.writer, world.worker, "-", tmp_path)
            desk.submit(desk.push())
            held = desk.claim()
            with pytest.raises(
                VerificationFailed, match=r"another hidden_size .* in quarantine; .*: adapterctl release"
            ):
                desk.complete(held, desk.result(desk.model(changing(hidden_size=16))))
            with pytest.raises(NotFound):
                desk.writer.get("m")
            assert differing(world) == {}
            (kept,) = world.admin.search("state = quarantined")
            assert kept.kind == "merged"
            assert world.admin.versions.release(kept.ref).ref == "m@v1"
            assert world.admin.get("m").info.parents[0].ref == "a@v1"
            assert differing(world) == {}
            # A name of adapters by then, it would have been let into none of them.
            desk.submit("a@v1", "n")
            held = desk.claim()
            with pytest.raises(VerificationFailed, match="in quarantine"):
                desk.complete(held, desk.result(desk.model(changing(hidden_size=17))))
            desk.push("n")
            (kept,) = world.admin.search("state = quarantined")
            with pytest.raises(
                Conflict, match="the versions of n are adapters, so no merged model becomes one of them"
            ):
                world.admin.versions.release(kept.ref)
            assert differing(world) == {}
