"""The lineage of real publishes, jobs, merges and evaluations: in process over SQLite, and over HTTP and PostgreSQL."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import insert, select, text, update
from support import registries
from support.adapters import SPEC, base_registration, digest, save_adapter, use_of
from support.migrated import migrated_database
from support.registries import World
from support.servers import TestPostgres
from support.statements import plan_of, sent

from registry.catalog.models import Adapter, BaseModelRow, Origin, Version, VersionParent
from registry.evaluations.models import Evaluation
from registry.jobs.models import Job
from registry.lineage.graph import MAX_EDGES, MAX_NODES
from registry.ops.schema import METADATA
from registry.principal import LOCAL, Role
from sdk.cli import cli
from sdk.client import Client
from sdk.errors import InvalidInput, InvalidRef, NotFound, Unauthenticated
from sdk.pushing.pack import pack_adapter
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Parent, Publication, Published
from sdk.schemas.evaluation import EvaluationReport, MergeReport
from sdk.schemas.jobs import BaseChoice, JobSubmission, JobView, TrainingRequest
from sdk.schemas.lineage import Edge, Lineage, VersionNode
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import Assignment, ClaimRequest, Completion, EvaluationResult, MergeResult, WorkerInfo
from sdk.transfer import hash_file

SEEDS = itertools.count(10_000)
BASE = f"base:{digest('tiny: base')}"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("embedded") / "home") as world:
        yield world


@pytest.fixture(scope="module")
def http_postgres(tmp_path_factory: pytest.TempPathFactory, postgres_server: TestPostgres) -> Iterator[World]:
    name = f"lineage_{uuid.uuid4().hex}"
    folder = tmp_path_factory.mktemp("postgres")
    database_url = migrated_database(postgres_server, name)
    with registries.served(folder, database_url=database_url, storage_url=(folder / "artifacts").as_uri()) as world:
        yield world
    postgres_server.drop_database(name)


@pytest.fixture(scope="module", params=["embedded", "http_postgres"])
def world(request: pytest.FixtureRequest) -> World:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    found.admin.register_base(base_registration())
    return found


# What people and workers do, as they do it.


@dataclass
class Maker:
    """Makes things in one registry, below a folder."""

    world: World
    folder: Path

    def rows(self, name: str, namespace: str | None = None) -> DatasetView:
        path = self.folder / name
        path.write_text(f'{{"prompt": "{uuid.uuid4().hex}", "completion": "b"}}\n')
        return self.world.writer.add_data(path, namespace=namespace)

    def adapter(self) -> Path:
        return save_adapter(self.folder / uuid.uuid4().hex, next(SEEDS))

    def publication(self, client: Client, name: str, folder: Path, **said: Any) -> Publication:
        staging = self.folder / uuid.uuid4().hex
        staging.mkdir()
        package = pack_adapter(
            folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
        )
        upload = client.upload(package.sources, "")
        return Publication(adapter=name, upload=upload, manifest=package.manifest, lora=package.lora, **said)

    def push(self, name: str, *parents: tuple[str, str, float | None], folder: Path | None = None) -> str:
        edges = [Parent.model_validate({"ref": ref, "relation": how, "weight": by}) for ref, how, by in parents]
        body = self.publication(self.world.writer, name, folder or self.adapter(), parents=edges)
        return self.world.writer.call("POST", "/versions", Published, body=body).version.ref

    def claimed(self, job_id: str) -> Assignment:
        worker = WorkerInfo(name="w1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33)
        body = ClaimRequest(worker=worker, hint=job_id)
        held = self.world.worker.call("POST", "/jobs/claim", Assignment | None, body=body)  # type: ignore[arg-type]
        assert held is not None
        assert held.job == job_id
        return held

    def complete(self, held: Assignment, **result: Any) -> JobView:
        body = Completion(attempt=held.attempt, **result)
        return self.world.worker.call("POST", f"/jobs/{held.job}/complete", JobView, body=body)

    def train(self, name: str, rows: DatasetView, folder: Path) -> JobView:
        base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
        request = TrainingRequest(adapter=name, base=base, data=rows.digest, spec=SPEC)
        job = self.world.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))
        use = use_of(rows.digest)
        body = self.publication(self.world.worker, name, folder, dataset=use, metrics={"loss": 1.0})
        return self.complete(self.claimed(job.id), version=body)

    def evaluate(self, refs: list[str], heldout: Path, **metrics: float) -> list[str]:
        job = self.world.writer.submit_evaluation(refs, data=heldout)
        held = self.claimed(job.id)
        report = EvaluationReport(metrics=metrics, precision="float32")
        results = [
            EvaluationResult(
                label=target.label, digest=target.digest, base_fingerprint=digest("tiny: base"), report=report
            )
            for target in held.targets
        ]
        done = self.complete(held, evaluations=results)
        assert done.result is not None
        return [f"evaluation:{found}" for found in done.result["evaluations"]]

    def merge(self, ref: str) -> tuple[str, str]:
        job = self.world.writer.submit_merge(ref)
        held = self.claimed(job.id)
        model = self.folder / f"{uuid.uuid4().hex}.safetensors"
        model.write_bytes(ref.encode())
        sha256, size = hash_file(model)
        manifest = Manifest(
            kind="merged",
            base_fingerprint=digest("tiny: base"),
            files=[ManifestFile(path="model.safetensors", size_bytes=size, sha256=sha256)],
        )
        report = MergeReport(onto="original", dtype="float32", metrics={})
        upload = self.world.worker.upload({sha256: model}, "")
        self.complete(held, merge=MergeResult(manifest=manifest, upload=upload, report=report))
        return job.id, f"merged:{manifest.digest}"


@pytest.fixture(scope="module")
def maker(world: World, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(world, tmp_path_factory.mktemp("things"))


@dataclass
class Story:
    """A version that a job trained, what came of it, and all that was done with it."""

    name: str
    rows: DatasetView
    heldout: Path
    job: str
    again: str
    merge_job: str
    merged: str
    #: Of the first version, and of the bare base.
    scores: list[str]
    mix: str

    @property
    def first(self) -> str:
        return f"{self.name}@v1"

    @property
    def second(self) -> str:
        return f"{self.name}@v2"

    @property
    def data(self) -> str:
        return f"data:{self.rows.digest}"


@pytest.fixture(scope="module")
def story(world: World, maker: Maker) -> Story:
    return tell(world, maker, "")


def tell(world: World, maker: Maker, namespace: str) -> Story:
    name = f"{namespace}story-{uuid.uuid4().hex[:8]}"
    rows = maker.rows(f"rows-{uuid.uuid4().hex}.jsonl", namespace.rstrip("/") or "-")
    trained = maker.adapter()
    job = maker.train(name, rows, trained)
    again = maker.train(name, rows, trained)
    second = maker.push(name, (f"{name}@v1", "continued-from", None))
    mix = maker.push(f"{name}-mix", (f"{name}@v1", "combined-from", 0.25), (second, "combined-from", 0.75))
    world.writer.set_alias(name, "production", 2)
    heldout = maker.folder / f"heldout-{uuid.uuid4().hex}.jsonl"
    heldout.write_text(f'{{"prompt": "{heldout.name}", "completion": "d"}}\n')
    scores = maker.evaluate([f"{name}@v1", "base:tiny"], heldout, loss=1.5, eval_s=9.0, rows=1.0)
    merge_job, merged = maker.merge(f"{name}@v1")
    return Story(name, rows, heldout, job.id, again.id, merge_job, merged, scores, mix)


def edges_of(found: Lineage) -> set[tuple[str, str, str]]:
    return {(edge.source, edge.relation, edge.target) for edge in found.edges}


def keys_of(found: Lineage) -> list[str]:
    return [node.key for node in found.nodes]


def node_of(found: Lineage, key: str) -> dict[str, Any]:
    return next(node for node in found.nodes if node.key == key).model_dump()


class TestDirections:
    def test_up_is_what_a_version_came_from(self, world: World, story: Story) -> None:
        found = world.writer.lineage(story.mix, direction="up")
        assert (found.root, found.direction, found.truncated, found.unfollowed) == (story.mix, "up", False, 0)
        assert edges_of(found) == {
            (story.mix, "combined-from", story.first),
            (story.mix, "combined-from", story.second),
            (story.second, "continued-from", story.first),
            (story.mix, "trained-over", BASE),
            (story.second, "trained-over", BASE),
            (story.first, "trained-over", BASE),
            (story.first, "trained-on", story.data),
            (story.first, "made-by", f"job:{story.job}"),
            (story.first, "made-by", f"job:{story.again}"),
        }
        weights = {edge.target: edge.weight for edge in found.edges if edge.relation == "combined-from"}
        assert weights == {story.first: 0.25, story.second: 0.75}
        assert {edge.attempt for edge in found.edges if edge.relation == "made-by"} == {1}
        assert node_of(found, f"job:{story.job}")["job_kind"] == "training"
        data = node_of(found, story.data)
        assert (data["name"], data["rows"], data["removed"]) == (story.rows.name, 1, False)
        assert (node_of(found, BASE)["id"], node_of(found, BASE)["revision"]) == ("tiny", "0" * 40)

    def test_down_is_what_came_of_a_version(self, world: World, story: Story) -> None:
        # A merge that nobody has made is none.
        world.writer.submit_merge(story.first).cancel()
        found = world.writer.lineage(story.first, direction="down")
        assert edges_of(found) == {
            (story.second, "continued-from", story.first),
            (story.mix, "combined-from", story.first),
            (story.mix, "combined-from", story.second),
            (story.merged, "merged-from", story.first),
            (story.scores[0], "scored", story.first),
        }
        merged = node_of(found, story.merged)
        assert (merged["onto"], merged["job"]) == ("original", story.merge_job)
        score = node_of(found, story.scores[0])
        assert (score["dataset_name"], score["precision"]) == (story.heldout.name, "float32")
        # What an evaluation took is no score.
        assert score["metrics"] == {"loss": 1.5}
        assert node_of(found, story.second)["aliases"] == ["production"]

    def test_both_are_ancestors_and_descendants_and_nobody_else(self, world: World, story: Story, maker: Maker) -> None:
        # Another version over the same base is neither.
        stranger = maker.push(f"{story.name}-stranger")
        found = world.writer.lineage(story.second)
        assert set(keys_of(found)) == {
            story.second,
            story.first,
            story.mix,
            BASE,
            story.data,
            f"job:{story.job}",
            f"job:{story.again}",
        }
        assert keys_of(found)[0] == found.root == story.second
        assert stranger not in keys_of(found)
        assert len(keys_of(found)) == len(set(keys_of(found)))

    def test_a_dataset_leads_to_what_used_it(self, world: World, story: Story) -> None:
        by_name = world.writer.lineage(f"data:{story.rows.name}")
        assert by_name == world.writer.lineage(f"data:{story.rows.digest[:12]}")
        assert by_name.root == story.data
        assert (story.first, "trained-on", story.data) in edges_of(by_name)
        assert {story.second, story.mix, story.merged} <= set(keys_of(by_name))
        scored = world.writer.lineage(f"data:{story.heldout.name}", direction="down")
        assert edges_of(scored) == {
            (story.scores[0], "scored-on", scored.root),
            (story.scores[1], "scored-on", scored.root),
            (story.scores[0], "scored", story.first),
            (story.scores[1], "scored", BASE),
        }
        assert keys_of(world.writer.lineage(f"data:{story.rows.name}", direction="up")) == [story.data]

    def test_a_base_leads_to_all_adapters_over_it(self, world: World, story: Story) -> None:
        found = world.writer.lineage("base:tiny", depth=1)
        assert found == world.writer.lineage(BASE, depth=1)
        assert {(ref, "trained-over", BASE) for ref in (story.first, story.second, story.mix)} <= edges_of(found)
        assert (story.scores[1], "scored", BASE) in edges_of(found)
        assert story.scores[0] not in keys_of(found)
        assert found.unfollowed >= 3
        deeper = world.writer.lineage("base:tiny", depth=2)
        assert (story.scores[0], "scored", story.first) in edges_of(deeper)

    def test_the_depth_is_how_far_it_goes(self, world: World, maker: Maker) -> None:
        name = f"chain-{uuid.uuid4().hex[:8]}"
        refs = [maker.push(name)]
        for _ in range(3):
            refs.append(maker.push(name, (refs[-1], "continued-from", None)))
        found = world.writer.lineage(refs[3], direction="up", depth=2)
        assert [key for key in keys_of(found) if key.startswith(name)] == [refs[3], refs[2], refs[1]]
        assert found.unfollowed == 1
        assert world.writer.lineage(refs[3], direction="up", depth=4).unfollowed == 0
        down = world.writer.lineage(refs[0], direction="down")
        assert keys_of(down) == refs

    def test_the_nearest_come_first(self, world: World, story: Story) -> None:
        found = world.writer.lineage(story.second, direction="up")
        assert keys_of(found)[:3] == [story.second, BASE, story.first]


class TestWhatIsGone:
    def test_a_deleted_parent_stands_where_it_stood(self, world: World, maker: Maker) -> None:
        name = f"gone-{uuid.uuid4().hex[:8]}"
        first = maker.push(name)
        second = maker.push(name, (first, "continued-from", None))
        with closing(world.client(Role.ADMIN)) as admin:
            admin.delete(first)
        found = world.writer.lineage(second, direction="up")
        assert (second, "continued-from", first) in edges_of(found)
        assert node_of(found, first)["state"] == "deleted"
        # What came of it can still be asked, by its number alone.
        assert keys_of(world.writer.lineage(first, direction="down")) == [first, second]
        with pytest.raises(NotFound):
            world.writer.lineage(f"{name}@v3")

    def test_a_removed_dataset_is_still_named(self, world: World, maker: Maker) -> None:
        name = f"rowless-{uuid.uuid4().hex[:8]}"
        rows = maker.rows(f"{name}.jsonl")
        maker.train(name, rows, maker.adapter())
        world.writer.remove_data(rows.digest)
        for found in (world.writer.lineage(f"data:{rows.name}"), world.writer.lineage(f"data:{rows.digest}")):
            assert (f"{name}@v1", "trained-on", f"data:{rows.digest}") in edges_of(found)
            assert node_of(found, found.root)["removed"] is True
        # The name goes to the next dataset that has it.
        rows_again = maker.rows(f"{name}.jsonl")
        assert world.writer.lineage(f"data:{rows.name}").root == f"data:{rows_again.digest}"


class TestRefusals:
    def test_what_is_not_there_is_not_found(self, world: World) -> None:
        for of, command in (
            ("base:nope", "adapterctl base add"),
            ("data:nope.jsonl", "adapterctl data list"),
            ("nope@v1", "adapterctl list"),
        ):
            with pytest.raises(NotFound, match=command):
                world.writer.lineage(of)

    def test_what_means_nothing_is_refused(self, world: World, story: Story) -> None:
        with pytest.raises(InvalidRef):
            world.writer.lineage(f"{story.name}@v0x:")
        with pytest.raises(InvalidInput):
            world.writer.lineage(story.first, depth=33)
        for query in ("of=a%00", "of=data:%00", "of=base:%00", "of=", "", "of=a&direction=left", "of=a&depth=0"):
            answer = world.http.get(f"/api/v1/lineage?{query}")
            assert answer.status_code in (404, 422), answer.text
            assert set(answer.json()["error"]) == {"code", "message", "param"}


class TestNamespaces:
    """Nobody learns of what they may not see."""

    @pytest.fixture
    def guarded(self, http_postgres: World) -> World:
        http_postgres.admin.register_base(base_registration())
        return http_postgres

    def client(self, world: World, token: str) -> closing[Client]:
        return closing(Client(world.url, token, cache=world.folder / "cache"))

    def reader(self, world: World, namespace: str) -> closing[Client]:
        return self.client(world, world.token(Role.READER, namespace=namespace))

    def test_other_namespaces_are_left_out(self, guarded: World, tmp_path: Path) -> None:
        maker = Maker(guarded, tmp_path)
        theirs = tell(guarded, maker, "their-team/")
        ours = maker.push("our-team/mine", (theirs.first, "continued-from", None))
        maker.push("their-team/child", (ours, "continued-from", None))
        maker.evaluate(["their-team/child"], theirs.heldout, loss=1.0)
        with self.reader(guarded, "our-team") as reader:
            found = reader.lineage(ours)
            assert keys_of(found) == [ours, BASE]
            assert "their-team" not in found.model_dump_json()
            over = reader.lineage("base:tiny")
            assert ours in keys_of(over)
            assert not {*theirs.scores, theirs.merged, theirs.data} & set(keys_of(over))
            assert not [secret for secret in ("their-team", theirs.rows.name) if secret in over.model_dump_json()]
            for of in (theirs.first, f"data:{theirs.rows.name}", f"data:{theirs.rows.digest}"):
                with pytest.raises(NotFound) as caught:
                    reader.lineage(of)
                assert theirs.rows.name not in str(caught.value) or theirs.rows.name in of
        with self.reader(guarded, "their-team") as reader:
            found = reader.lineage(theirs.first)
            assert {theirs.second, theirs.mix, theirs.merged, theirs.data, theirs.scores[0]} <= set(keys_of(found))
            assert ours not in keys_of(found)

    def test_scores_and_jobs_of_another_namespace_are_left_out_of_what_is_the_same_here(
        self, guarded: World, tmp_path: Path
    ) -> None:
        maker = Maker(guarded, tmp_path)
        story = tell(guarded, maker, "our-team/")
        with self.reader(guarded, "our-team") as reader:
            mine = {story.scores[0], story.merged, f"job:{story.job}"}
            assert mine <= set(keys_of(reader.lineage(story.first)))
            # The same bytes may have been scored elsewhere, and a job may have been given to others.
            with guarded.services.db.write() as session:
                jobs = [story.job, story.again, story.merge_job]
                session.execute(update(Job).where(Job.id.in_(jobs)).values(namespace="their-team"))
                theirs = Evaluation.id == story.scores[0].removeprefix("evaluation:")
                session.execute(update(Evaluation).where(theirs).values(namespace="their-team"))
            assert set(keys_of(reader.lineage(story.first))) == {story.first, story.second, story.mix, BASE, story.data}

    def test_a_deleted_version_of_another_namespace_is_not_found(self, guarded: World, tmp_path: Path) -> None:
        ref = Maker(guarded, tmp_path).push(f"their-team/gone-{uuid.uuid4().hex[:8]}")
        with closing(guarded.client(Role.ADMIN)) as admin:
            admin.delete(ref)
        with self.reader(guarded, "our-team") as reader, pytest.raises(NotFound):
            reader.lineage(ref)
        with self.reader(guarded, "their-team") as reader:
            assert keys_of(reader.lineage(ref, direction="down")) == [ref]

    def test_a_dataset_of_another_namespace_is_left_out_and_is_told_to_its_own_readers_when_it_is_removed(
        self, guarded: World, tmp_path: Path
    ) -> None:
        maker = Maker(guarded, tmp_path)
        name = f"our-team/rows-{uuid.uuid4().hex[:8]}"
        rows = maker.rows(f"secret-{uuid.uuid4().hex}.jsonl", "their-team")
        maker.train(name, rows, maker.adapter())
        with self.reader(guarded, "our-team") as reader:
            before = reader.lineage(f"{name}@v1")
            assert f"data:{rows.digest}" not in keys_of(before)
            guarded.writer.remove_data(rows.digest)
            # What becomes of it elsewhere is nothing that this reader can tell.
            assert reader.lineage(f"{name}@v1") == before
            with pytest.raises(NotFound):
                reader.lineage(f"data:{rows.name}")
        with self.reader(guarded, "their-team") as reader:
            found = reader.lineage(f"data:{rows.name}")
            assert node_of(found, found.root) == {
                "kind": "dataset",
                "key": f"data:{rows.digest}",
                "digest": rows.digest,
                "name": rows.name,
                "rows": 1,
                "removed": True,
            }

    def test_a_token_is_wanted(self, guarded: World) -> None:
        with self.client(guarded, "wrong") as client, pytest.raises(Unauthenticated):
            client.lineage("base:tiny")


def write_versions(world: World, count: int, name: str, parent: str | None = None) -> list[int]:
    """Write the rows of many versions, without files; each with `parent` as its own."""
    with world.services.db.write() as session:
        base = session.scalars(select(BaseModelRow).where(BaseModelRow.id == "tiny")).one()
        adapter = Adapter(name=name, namespace="-", created_by="test", last_number=count, latest_number=count)
        session.add(adapter)
        session.flush()
        said = {
            "adapter_pk": adapter.pk,
            "base_pk": base.pk,
            "base_id": base.id,
            "state": "ready",
            "kind": "adapter",
            "lora": {},
            "rank": 8,
            "method": "lora",
            "tags": {},
            "created_by": "test",
        }
        rows = [{**said, "number": n, "digest": digest(f"{name} {n}")} for n in range(1, count + 1)]
        session.execute(insert(Version), rows)
        pks = list(session.scalars(select(Version.pk).where(Version.adapter_pk == adapter.pk).order_by(Version.pk)))
        if parent is not None:
            of, number = parent.split("@v")
            query = select(Version.pk).join(Version.adapter).where(Adapter.name == of, Version.number == int(number))
            parent_pk = session.scalars(query).one()
            edges = [{"version_pk": pk, "parent_pk": parent_pk, "relation": "continued-from"} for pk in pks]
            session.execute(insert(VersionParent), edges)
        return pks


class TestBounds:
    def test_there_are_as_many_queries_a_step_for_one_version_as_for_many(self, world: World, maker: Maker) -> None:
        counts = []
        for many in (1, 50):
            root = maker.push(f"root-{uuid.uuid4().hex[:8]}")
            write_versions(world, many, f"many-{uuid.uuid4().hex[:8]}", root)
            with sent(world.services.db) as seen:
                found = world.services.lineages.trace(of=root, direction="both", depth=8, who=LOCAL)
            assert len(found.nodes) == many + 2
            counts.append(len(seen))
        assert counts[0] == counts[1]
        assert counts[0] < 25

    def test_more_than_there_is_room_for_is_cut_and_said(self, world: World, maker: Maker) -> None:
        root = maker.push(f"root-{uuid.uuid4().hex[:8]}")
        name = f"flood-{uuid.uuid4().hex[:8]}"
        write_versions(world, MAX_NODES + 50, name, root)
        found = world.writer.lineage(root, direction="down", depth=2)
        assert (len(found.nodes), found.truncated) == (MAX_NODES, True)
        assert found.root == root
        keys = set(keys_of(found))
        # The newest are kept, and no edge leads to what was left out.
        assert f"{name}@v{MAX_NODES + 50}" in keys
        assert f"{name}@v1" not in keys
        assert {end for edge in found.edges for end in (edge.source, edge.target)} == keys
        over = world.writer.lineage("base:tiny", depth=1)
        assert (len(over.nodes), over.truncated) == (MAX_NODES, True)
        with world.services.db.write() as session:
            session.execute(text("UPDATE versions SET state = 'failed', number = NULL WHERE created_by = 'test'"))

    def test_a_version_that_was_made_too_often_says_so(self, world: World, maker: Maker) -> None:
        ref = maker.push(f"often-{uuid.uuid4().hex[:8]}")
        with world.services.db.write() as session:
            query = select(Version.pk).join(Version.adapter).where(Adapter.name == ref.partition("@")[0])
            pk = session.scalars(query).one()
            makings = [{"version_pk": pk, "metrics": {}, "libraries": {}, "created_by": "test"}] * (MAX_EDGES + 1)
            session.execute(insert(Origin), makings)
        assert world.writer.lineage(ref, direction="up").truncated is True

    def test_a_circle_ends(self, world: World, maker: Maker) -> None:
        name = f"circle-{uuid.uuid4().hex[:8]}"
        first = maker.push(name)
        second = maker.push(name, (first, "continued-from", None))
        with world.services.db.write() as session:
            rows = session.scalars(select(Version).join(Version.adapter).where(Adapter.name == name)).all()
            pks = {row.number: row.pk for row in rows}
            edge = VersionParent(version_pk=pks[1], parent_pk=pks[2], relation="merged-from")
            itself = VersionParent(version_pk=pks[1], parent_pk=pks[1], relation="merged-from")
            session.add_all([edge, itself])
        found = world.writer.lineage(first, depth=32)
        assert found.unfollowed == 0
        assert {key for key in keys_of(found) if key != BASE} == {first, second}
        assert {(edge.source, edge.target) for edge in found.edges if edge.target != BASE} == {
            (second, first),
            (first, second),
            (first, first),
        }

    def test_every_look_up_is_by_an_index(self, embedded: World, tmp_path: Path) -> None:
        embedded.admin.register_base(base_registration())
        story = tell(embedded, Maker(embedded, tmp_path), "")
        with sent(embedded.services.db) as seen:
            for of in (story.first, "base:tiny", story.data, f"data:{story.rows.name}"):
                embedded.services.lineages.trace(of=of, direction="both", depth=8, who=LOCAL)
        assert len(seen) > 20
        indexes = set()
        for statement in seen:
            plan = plan_of(embedded.services.db, statement)
            scanned = {line.split()[1] for line in plan if line.startswith("SCAN")}
            assert not scanned & set(METADATA.tables), (plan, statement)
            indexes |= {word for line in plan for word in line.split() if word.startswith("ix_")}
        assert {
            "ix_version_parents_parent_pk",
            "ix_version_origins_version_pk",
            "ix_version_origins_dataset_digest",
            "ix_versions_base_pk_rank_pk",
            "ix_evaluations_digest",
            "ix_evaluations_dataset_digest",
            "ix_jobs_kind_subject_state",
        } <= indexes


def test_people_see_a_tree_within_80_columns(embedded: World, tmp_path: Path) -> None:
    embedded.admin.register_base(base_registration())
    story = tell(embedded, Maker(embedded, tmp_path), "a-team-with-a-long-name/")
    runner = CliRunner(env={"ADAPTERCTL_URL": embedded.url, "HOME": str(tmp_path)})
    done = runner.invoke(cli, ["lineage", story.first])
    lines = done.stdout.splitlines()
    assert (done.exit_code, done.stderr) == (0, "")
    assert max(map(len, lines)) <= 80
    assert lines[:3] == [f"{story.first}  rank 2, lora", "├─ came from", f"│  ├─ trained over tiny@{'0' * 12}"]
    assert lines[3].startswith(f"│  ├─ trained on {story.rows.name}  ")
    assert f"   ├─ continued as {story.second}  rank 2, production" in lines
    merged = story.merged.removeprefix("merged:")[:12]
    assert f"   ├─ merged into model {merged}  onto original, job {story.merge_job}" in lines
    refused = runner.invoke(cli, ["lineage", "data:nope"])
    assert isinstance(refused.exception, NotFound)


def test_the_answer_is_one_document(world: World, story: Story) -> None:
    answer = world.http.get("/api/v1/lineage", params={"of": story.first, "depth": 1}).json()
    assert set(answer) == {"root", "direction", "depth", "nodes", "edges", "truncated", "unfollowed"}
    assert {node["kind"] for node in answer["nodes"]} == {"version", "base", "dataset", "job", "merged", "evaluation"}
    assert all(isinstance(edge, Edge) for edge in Lineage.model_validate(answer).edges)
    assert isinstance(Lineage.model_validate(answer).nodes[0], VersionNode)
