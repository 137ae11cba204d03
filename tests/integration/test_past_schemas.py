"""Registries of past releases, brought to the newest schema on both databases, and read through the services."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import select
from support.schemas import downgrade, kept_revisions, load_past, revisions, rows_of, triggers_of, upgrade_to
from support.servers import TestPostgres
from support.usage import mismeasured

from registry.access.audit.service import Audit
from registry.access.keys import KeyedRequest
from registry.app.services import Services, build
from registry.catalog.models import AliasMoveRow, Version
from registry.db.database import Database
from registry.db.schema_version import head_revision
from registry.errors import Forbidden, NotFound
from registry.evaluations.models import EvaluationMetric
from registry.ops.schema import drift
from registry.principal import SYSTEM, Principal, Role
from registry.queue import NoQueue
from registry.quotas.recount import recount
from registry.settings import Settings
from sdk.schemas.aliases import AliasMove, AliasRollback
from sdk.schemas.work import ClaimRequest, WorkerInfo

ADAPTER = "team/code-review"
OF_TEAM = Principal("ana", {"team": Role.READER})
WITHOUT_NAMESPACE = Principal("bo", {"-": Role.READER})
OF_ANOTHER = Principal("eve", {"other": Role.ADMIN})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    found: str = request.getfixturevalue("empty_postgres_database")
    return found


Upgraded = Callable[[str], Services]


@pytest.fixture(params=["sqlite", "postgresql"])
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Upgraded]:
    """Return a function that opens the registry of a past release, with the newest schema: a copy for each test."""
    with ExitStack() as stack:

        def open_copy(revision: str) -> Services:
            if request.param == "sqlite":
                path = tmp_path / "registry.sqlite3"
                path.write_bytes(upgraded_file(revision))
                services = opened(f"sqlite:///{path}", tmp_path)
            else:
                server: TestPostgres = request.getfixturevalue("postgres_server")
                name = f"test_{uuid.uuid4().hex}"
                services = opened(server.create_database(name, template=upgraded_database(server, revision)), tmp_path)
                stack.callback(server.drop_database, name)
            stack.callback(services.db.close)
            return services

        yield open_copy


@cache
def upgraded_file(revision: str) -> bytes:
    """The registry of a past release as an SQLite file, brought to the newest schema."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.sqlite3"
        upgrade(f"sqlite:///{path}", revision)
        return path.read_bytes()


@cache
def upgraded_database(server: TestPostgres, revision: str) -> str:
    """The name of a database that others are copies of; nobody is connected to it."""
    name = f"past_{revision}_{uuid.uuid4().hex}"
    upgrade(server.create_database(name), revision)
    return name


def upgrade(url: str, revision: str) -> None:
    """Bring the kept registry of a past release to the newest schema, in an empty database."""
    db = Database(url)
    load_past(db, revision)
    assert db.revision() == revision
    db.upgrade()
    assert db.revision() == head_revision()
    assert drift(db) == []
    db.close()


def opened(url: str, folder: Path) -> Services:
    """The services over a database."""
    storage_url = (folder / "artifacts").as_uri()
    settings = Settings(database_url=url, storage_url=storage_url, auth="none", embedded_home=str(folder))
    return build(settings, queue=NoQueue())


@pytest.mark.parametrize("revision", kept_revisions())
def test_what_went_up_comes_down_as_it_was(url: str, revision: str) -> None:
    db = Database(url)
    load_past(db, revision)
    before = rows_of(db)
    assert all(before.pop(table) for table in ("adapters", "versions", "tokens", "jobs", "evaluations"))
    db.upgrade()
    above = rows_of(db)
    downgrade(db, revision)
    assert db.revision() == revision
    # Answers to requests, which were kept for a week, are the one thing that goes.
    before.pop("keyed_requests", None)
    assert {table: rows for table, rows in rows_of(db).items() if table in before} == before
    db.upgrade()
    assert drift(db) == []
    assert rows_of(db) == above
    db.close()


def test_every_revision_is_passed_with_rows_in_both_directions(url: str) -> None:
    db = Database(url)
    load_past(db, revisions()[0])
    for revision in revisions()[1:]:
        upgrade_to(db, revision)
        assert db.revision() == revision
    for revision in reversed(revisions()[:-1]):
        downgrade(db, revision)
        assert db.revision() == revision
    assert triggers_of(db) == []
    downgrade(db, "base")
    assert set(rows_of(db)) <= {"alembic_version"}
    db.upgrade()
    assert drift(db) == []
    db.close()


class TestSchema0001:
    """A registry of the first release."""

    @pytest.fixture
    def services(self, upgraded: Upgraded) -> Services:
        return upgraded("0001")

    def test_its_versions_and_aliases_are_there(self, services: Services) -> None:
        versions = services.catalog.versions(
            adapter="team/code-review", archived=False, cursor=None, limit=9, who=SYSTEM
        ).items
        assert [version.ref for version in versions] == ["team/code-review@v2", "team/code-review@v1"]
        second = services.catalog.resolve("team/code-review@production", who=SYSTEM)
        assert second == versions[0] == services.catalog.resolve("team/code-review", who=OF_TEAM)
        assert (second.state, second.description, second.tags) == ("ready", "number 2", {"team": "a"})
        assert (second.metrics, second.training) == ({"loss": 0.5}, {"lr": 0.0002, "max_steps": 2})
        assert second.quantization is not None
        assert second.quantization.type == "nf4"
        assert second.dataset is not None
        assert second.dataset.digest == services.datasets.list(cursor=None, limit=1, who=SYSTEM).items[0].digest
        assert second.base == services.catalog.resolve("team/code-review@v1", who=SYSTEM).base
        assert second.base.id == services.bases.get("tiny", who=SYSTEM).id
        assert second.manifest.digest == second.digest
        with services.db.read() as session:
            moves = session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.pk)).all()
        assert [(move.from_number, move.to_number, move.reason) for move in moves] == [
            (None, 1, "to v1"),
            (1, 2, "to v2"),
        ]
        with pytest.raises(NotFound):
            services.catalog.resolve("team/code-review@v2", who=OF_ANOTHER)

    def test_its_adapter_is_listed_with_its_size(self, services: Services) -> None:
        (adapter,) = services.catalog.adapters(namespace="team", prefix="", cursor=None, limit=9, who=OF_TEAM).items
        assert (adapter.latest, adapter.versions, adapter.base) == ("team/code-review@v2", 2, "tiny")
        versions = services.catalog.versions(
            adapter=adapter.adapter, archived=True, cursor=None, limit=9, who=SYSTEM
        ).items
        assert adapter.size_bytes == sum(file.size_bytes for version in versions for file in version.files)

    def test_its_aliases_move_on_from_their_history(self, services: Services) -> None:
        rollback = AliasRollback(adapter="team/code-review", alias="production", expect=2)
        assert services.aliases.rollback(rollback=rollback, who=SYSTEM).number == 1
        move = AliasMove(adapter="team/code-review", alias="production", number=2, expect=1)
        assert services.aliases.move(move=move, who=SYSTEM).number == 2
        assert services.catalog.resolve("team/code-review@production", who=SYSTEM).number == 2

    def test_its_files_are_fetched_by_who_reads_there(self, services: Services) -> None:
        digest = services.catalog.resolve("team/code-review@v2", who=SYSTEM).digest
        for reader in (SYSTEM, OF_TEAM):
            assert len(services.artifacts.download(digest, who=reader)) == 2
        for stranger in (WITHOUT_NAMESPACE, OF_ANOTHER):
            with pytest.raises(NotFound):
                services.artifacts.download(digest, who=stranger)

    def test_its_datasets_are_open_where_they_were_used(self, services: Services) -> None:
        (dataset,) = services.datasets.list(cursor=None, limit=9, who=SYSTEM).items
        for reader in (OF_TEAM, WITHOUT_NAMESPACE):
            assert services.datasets.locate(dataset.digest, who=reader).sha256 == dataset.digest
            if dataset.name:
                assert services.datasets.locate(f"{dataset.name}@v1", who=reader).sha256 == dataset.digest
        with pytest.raises(NotFound):
            services.datasets.locate(dataset.digest, who=OF_ANOTHER)

    def test_its_jobs_and_evaluations_are_there(self, services: Services) -> None:
        jobs = services.jobs.list(state=None, cursor=None, limit=10, who=OF_TEAM).items
        assert sorted((job.kind, job.state.value) for job in jobs) == [
            ("evaluation", "succeeded"),
            ("training", "cancelled"),
            ("training", "queued"),
            ("training", "succeeded"),
        ]
        assert services.jobs.list(state=None, cursor=None, limit=10, who=OF_ANOTHER).items == []
        trained = next(job for job in jobs if job.kind == "training" and job.state == "succeeded")
        assert trained.result is not None
        assert trained.result["ref"] == "team/code-review@v1"
        (evaluation,) = services.evaluations.list(
            digest=None, job=None, base=None, cursor=None, limit=10, who=OF_TEAM
        ).items
        assert (evaluation.ref, evaluation.metrics) == ("team/code-review@v2", {"loss": 1.5})

    def test_its_scores_can_be_searched(self, services: Services) -> None:
        second = services.catalog.resolve("team/code-review@v2", who=SYSTEM)
        with services.db.read() as session:
            (metric,) = session.scalars(select(EvaluationMetric)).all()
        assert (metric.name, metric.value, metric.namespace, metric.digest) == ("loss", 1.5, "team", second.digest)

    def test_its_waiting_job_is_given_to_a_worker(self, services: Services) -> None:
        worker = WorkerInfo(name="node-1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33)
        held = services.claims.claim(claim=ClaimRequest(worker=worker), who=SYSTEM)
        assert held is not None
        assert held.attempt == 1
        assert services.jobs.get(held.job, who=SYSTEM).state == "running"

    def test_its_tokens_have_their_role_everywhere(self, services: Services) -> None:
        (token,) = services.tokens.list(who=SYSTEM)
        assert (token.name, [(grant.namespace, grant.role) for grant in token.grants]) == ("ci", [("*", "writer")])

    def test_its_audit_trail_begins_empty(self, services: Services) -> None:
        assert Audit(services.db).list(who=SYSTEM).items == []
        services.tokens.create(name="ana", grants={"team": Role.WRITER}, who=SYSTEM)
        assert [entry.action for entry in Audit(services.db).list(who=SYSTEM).items] == ["token.create"]


class TestSchema0002:
    """A registry with people, removal and search."""

    @pytest.fixture
    def services(self, upgraded: Upgraded) -> Services:
        return upgraded("0002")

    def test_its_versions_are_in_their_states(self, services: Services) -> None:
        assert services.catalog.resolve(ADAPTER, who=OF_TEAM).number == 2
        assert services.catalog.resolve(f"{ADAPTER}@v3", who=OF_TEAM).state == "archived"
        with pytest.raises(NotFound, match="was deleted"):
            services.catalog.resolve(f"{ADAPTER}@v4", who=OF_TEAM)
        first = services.catalog.resolve(f"{ADAPTER}@production", who=OF_TEAM)
        assert (first.number, first.tags) == (1, {"team": "a", "language": "python"})
        assert [note.text for note in first.notes] == ["beats the base"]
        second = services.catalog.resolve(f"{ADAPTER}@v2", who=OF_TEAM)
        assert [parent.ref for parent in second.parents] == [f"{ADAPTER}@v1"]
        assert second.unknown == ["base_revision"]
        with pytest.raises(NotFound):
            services.catalog.resolve(ADAPTER, who=OF_ANOTHER)

    def test_its_aliases_are_protected_and_have_a_history(self, services: Services) -> None:
        (alias,) = services.aliases.list(adapter=ADAPTER, who=OF_TEAM)
        assert (alias.alias, alias.number, alias.protected) == ("production", 1, True)
        moves = services.aliases.history(adapter=ADAPTER, alias=None, cursor=None, limit=9, who=OF_TEAM).items
        assert [(move.alias, move.kind, move.to_number) for move in moves] == [
            ("staging", "remove", None),
            ("production", "rollback", 1),
            ("staging", "set", 3),
            ("production", "set", 2),
            ("production", "set", 1),
        ]
        move = AliasMove(adapter=ADAPTER, alias="production", number=2)
        with pytest.raises(Forbidden, match="protected"):
            services.aliases.move(move=move, who=Principal("ana", {"team": Role.WRITER}))

    def test_its_people_have_their_roles_and_limits(self, services: Services) -> None:
        tokens = {token.name: token for token in services.tokens.list(who=SYSTEM)}
        roles = {name: {grant.namespace: grant.role for grant in token.grants} for name, token in tokens.items()}
        assert roles == {
            "ana": {"team": "writer"},
            "bo": {"team": "promoter", "-": "reader"},
            "ci": {"*": "writer"},
            "gpu-1": {"*": "worker"},
            "left": {"team": "admin"},
        }
        assert {name for name, token in tokens.items() if token.revoked_at} == {"left"}
        quota = services.quotas.get("team", who=SYSTEM)
        assert (quota.max_adapters, quota.max_bytes, quota.max_jobs) == (9, 10**9, 9)
        assert (quota.adapters, quota.jobs) == (1, 1)

    def test_its_audit_trail_is_there_and_its_answers_are_gone(self, services: Services) -> None:
        said = services.audit.list(who=SYSTEM, action="version.*").items
        assert [(entry.action, entry.subject) for entry in said[:2]] == [
            ("version.delete", f"{ADAPTER}@v4"),
            ("version.archive", f"{ADAPTER}@v3"),
        ]
        with services.db.read() as session:
            assert session.scalars(select(KeyedRequest)).all() == []

    def test_its_removed_files_are_gone_and_the_rest_is_open(self, services: Services) -> None:
        rule = services.removal.retention("summary", who=SYSTEM).rule
        assert rule is not None
        assert rule.keep_last == 3
        assert len(services.datasets.list(cursor=None, limit=9, who=OF_TEAM).items) == 1
        for number in (1, 2, 3):
            digest = services.catalog.resolve(f"{ADAPTER}@v{number}", who=OF_TEAM).digest
            assert len(services.artifacts.download(digest, who=OF_TEAM)) == 2
        with pytest.raises(NotFound):
            services.artifacts.download(_deleted(services), who=SYSTEM)

    def test_it_comes_down_to_0001_without_giving_anybody_more(self, services: Services) -> None:
        deleted = _deleted(services)
        services.db.close()
        downgrade(services.db, "0001")
        below = rows_of(services.db)
        assert {row["name"]: (row["role"], row["revoked_at"] is None) for row in below["tokens"]} == {
            # A role in one namespace would be one in all of them, and a worker may write there.
            "ana": ("", False),
            "bo": ("", False),
            "ci": ("writer", True),
            "gpu-1": ("", False),
            "left": ("", False),
        }
        assert len(below["datasets"]) == 1
        assert len(below["versions"]) == 5
        # What was collected is sent again by whoever pushes it again.
        assert {row["digest"] for row in below["datasets"]} <= {row["sha256"] for row in below["blobs"]}
        assert len(below["blobs"]) == 6
        services.db.upgrade()
        assert drift(services.db) == []
        above = {token.name: token for token in services.tokens.list(who=SYSTEM)}
        assert {name: [(one.namespace, one.role) for one in token.grants] for name, token in above.items()} == {
            "ana": [],
            "bo": [],
            "ci": [("*", "writer")],
            "gpu-1": [],
            "left": [],
        }
        assert [name for name, token in above.items() if token.revoked_at is None] == ["ci"]
        # Those that have nothing left are everybody's to see no more than before.
        assert services.tokens.list(who=OF_ANOTHER) == []
        assert services.catalog.resolve(f"{ADAPTER}@production", who=OF_TEAM).number == 1
        with pytest.raises(NotFound):
            services.artifacts.download(deleted, who=OF_TEAM)


class TestSchema0003:
    """A registry whose blobs have names of their own, with a signature, a warning and an upload in parts."""

    @pytest.fixture
    def services(self, upgraded: Upgraded) -> Services:
        return upgraded("0003")

    def test_its_files_are_found_where_they_were_sent(self, services: Services) -> None:
        second = services.catalog.resolve(f"{ADAPTER}@v2", who=OF_TEAM)
        for origin in services.artifacts.download(second.digest, who=OF_TEAM):
            name = origin.url.rpartition("/")[2]
            assert name.startswith(f"{origin.sha256}.")
            assert len(name) == 97

    def test_its_warnings_and_signatures_are_there(self, services: Services) -> None:
        (warning,) = services.catalog.resolve(f"{ADAPTER}@v5", who=OF_TEAM).warnings
        assert "v_proj" in warning
        digest = services.catalog.resolve(f"{ADAPTER}@v2", who=OF_TEAM).digest
        (signature,) = services.signatures.list(digest, who=OF_TEAM)
        assert (signature.bundle, signature.created_by) == ("{}", "ana")


class TestSchema0004:
    """A registry with a training that was given back and waits to go on from its checkpoint."""

    @pytest.fixture
    def services(self, upgraded: Upgraded) -> Services:
        return upgraded("0004")

    def test_its_training_goes_on_from_its_checkpoint(self, services: Services) -> None:
        worker = WorkerInfo(name="node-1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33)
        held = services.claims.claim(claim=ClaimRequest(worker=worker), who=SYSTEM)
        assert held is not None
        assert held.attempt == 2
        assert held.checkpoint is not None
        assert (held.checkpoint.job, held.checkpoint.step) == (held.job, 10)
        attempts = services.jobs.attempts(held.job, who=OF_TEAM)
        assert [(attempt.attempt, attempt.state) for attempt in attempts] == [(1, "released"), (2, "running")]

    def test_it_comes_down_to_0003_without_its_checkpoints(self, services: Services) -> None:
        services.db.close()
        downgrade(services.db, "0003")
        below = rows_of(services.db)
        assert not {"job_checkpoints", "job_attempts", "job_counters"} & set(below)
        assert sorted(row["state"] for row in below["jobs"]) == ["cancelled", "queued", "succeeded", "succeeded"]
        services.db.upgrade()
        assert drift(services.db) == []


@pytest.mark.parametrize("revision", kept_revisions())
def test_what_namespaces_keep_in_the_database_is_counted(upgraded: Upgraded, revision: str) -> None:
    services = upgraded(revision)
    assert recount(services.db, within_s=60) == 0
    quota = services.quotas.get("team", who=SYSTEM)
    assert (quota.records_bytes or 0) > 1000
    # What admins have limited is limited in this, too.
    assert quota.max_record_bytes == (None if quota.default or quota.max_bytes is None else 2**30)
    # Each row is measured as a new one would be, but for evaluations, whose names of metrics count as rows.
    wrong = mismeasured(services, "team", "-", "*")
    assert [one for one in wrong if not one.startswith(("evaluation ", "events of "))] == []


def _deleted(services: Services) -> str:
    """The digest of the version that was deleted."""
    with services.db.read() as session:
        return session.scalars(select(Version.digest).where(Version.state == "deleted")).one()
