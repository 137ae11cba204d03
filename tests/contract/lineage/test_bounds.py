"""What a lineage shows to whom, and how much of it."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest
from contract.lineage.helpers import BASE, Maker, keys_of, node_of, tell
from sqlalchemy import insert, select, text, update
from support.adapters import base_registration, digest
from support.registries import World
from support.statements import plan_of, sent

from registry.catalog.models import Adapter, BaseModelRow, Origin, Version, VersionParent
from registry.evaluations.models import Evaluation
from registry.jobs.models import Job
from registry.lineage.graph import MAX_EDGES, MAX_NODES
from registry.ops.schema import METADATA
from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.errors import NotFound, Unauthenticated


class TestNamespaces:
    """Nobody learns of what they may not see."""

    @pytest.fixture
    def guarded(self, http_postgres: World) -> World:
        http_postgres.admin.bases.register(base_registration())
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
            admin.versions.delete(ref)
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
            guarded.writer.datasets.remove(rows.digest)
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
        embedded.admin.bases.register(base_registration())
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
