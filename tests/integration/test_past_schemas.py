"""Registries that were left by past releases, and the one that this release leaves, brought to the newest schema on both
databases and read through the services.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import select
from support.schemas import NOW, downgrade, kept_revisions, load_past, rows_of, triggers_of
from support.servers import TestPostgres
from support.usage import mismeasured

from registry.access.audit.service import AuditQuery
from registry.access.keys import KeyedRequest
from registry.app.services import Services
from registry.catalog.models import Version
from registry.db.database import Database, head_revision
from registry.errors import Forbidden, NotFound
from registry.evaluations.models import EvaluationMetric
from registry.evaluations.service import EvaluationQuery
from registry.evaluations.version_scores import VersionScores
from registry.ops.schema import drift
from registry.principal import SYSTEM, Principal, Role
from registry.queue import NoQueue
from registry.quotas.service import recount
from registry.search.adapters import AdapterSearch
from registry.settings import Settings
from sdk.schemas.aliases import AliasMove
from sdk.schemas.work import ClaimRequest, WorkerInfo

ADAPTER = "team/code-review"
OF_TEAM = Principal("ana", {"team": Role.READER})
OF_ANOTHER = Principal("eve", {"other": Role.ADMIN})


@pytest.fixture(params=[NOW, *kept_revisions()])
def revision(request: pytest.FixtureRequest) -> str:
    """Whose registry it is."""
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgresql"])
def services(request: pytest.FixtureRequest, revision: str, tmp_path: Path) -> Iterator[Services]:
    """The registry with the newest schema: a copy for each test."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            path = tmp_path / "registry.sqlite3"
            path.write_bytes(upgraded_file(revision))
            found = opened(f"sqlite:///{path}", tmp_path)
        else:
            server: TestPostgres = request.getfixturevalue("postgres_server")
            name = f"test_{uuid.uuid4().hex}"
            found = opened(server.create_database(name, template=upgraded_database(server, revision)), tmp_path)
            stack.callback(server.drop_database, name)
        stack.callback(found.db.close)
        yield found


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
    assert revision in (NOW, db.revision())
    db.upgrade()
    assert db.revision() == head_revision()
    assert drift(db) == []
    db.close()


def opened(url: str, folder: Path) -> Services:
    """The services over a database."""
    storage_url = (folder / "artifacts").as_uri()
    settings = Settings(database_url=url, storage_url=storage_url, auth="none", embedded_home=str(folder))
    return Services(settings, queue=NoQueue())


def test_what_went_up_comes_down_as_it_was(empty_database_url: str, revision: str) -> None:
    db = Database(empty_database_url)
    load_past(db, revision)
    before, was = rows_of(db), str(db.revision())
    assert all(before.pop(table) for table in ("adapters", "versions", "tokens", "jobs", "evaluations"))
    db.upgrade()
    above = rows_of(db)
    downgrade(db, was)
    assert db.revision() == was
    assert {table: rows for table, rows in rows_of(db).items() if table in before} == before
    db.upgrade()
    assert drift(db) == []
    assert rows_of(db) == above
    downgrade(db, "base")
    assert triggers_of(db) == []
    assert set(rows_of(db)) <= {"alembic_version"}
    db.close()


class TestRegistry:
    """People, versions in each state, aliases with a history, datasets, jobs, scores, files, a training that goes on."""

    def test_its_versions_are_in_their_states(self, services: Services) -> None:
        assert services.catalog.resolve(ADAPTER, who=OF_TEAM).number == 5
        assert services.catalog.resolve(f"{ADAPTER}@v3", who=OF_TEAM).state == "archived"
        with pytest.raises(NotFound, match="was deleted"):
            services.catalog.resolve(f"{ADAPTER}@v4", who=OF_TEAM)
        first = services.catalog.resolve(f"{ADAPTER}@production", who=OF_TEAM)
        assert (first.number, first.tags, first.state) == (1, {"language": "python"}, "ready")
        assert [note.text for note in first.notes] == ["beats the base"]
        second = services.catalog.resolve(f"{ADAPTER}@v2", who=OF_TEAM)
        assert [parent.ref for parent in second.parents] == [f"{ADAPTER}@v1"]
        assert (second.unknown, second.tags, second.description) == (["base_revision"], {"team": "a"}, "number 2")
        assert (second.metrics, second.training) == ({"loss": 0.5}, {"lr": 0.0004, "max_steps": 2})
        assert second.quantization.type == "nf4"
        assert second.dataset.digest == services.datasets.list(cursor=None, limit=1, who=SYSTEM).items[0].digest
        assert second.base.id == services.bases.get("tiny", who=SYSTEM).id
        with pytest.raises(NotFound):
            services.catalog.resolve(ADAPTER, who=OF_ANOTHER)

    def test_its_adapter_is_listed_with_its_size(self, services: Services) -> None:
        (adapter,) = services.catalog.adapters(namespace="team", prefix="", cursor=None, limit=9, who=OF_TEAM).items
        assert (adapter.latest, adapter.versions, adapter.base) == (f"{ADAPTER}@v5", 3, "tiny")
        versions = services.catalog.versions(
            adapter=adapter.adapter, archived=True, cursor=None, limit=9, who=SYSTEM
        ).items
        assert adapter.size_bytes == sum(file.size_bytes for version in versions for file in version.files)

    def test_its_last_scores_stand_in_lists(self, services: Services) -> None:
        (entry,) = AdapterSearch(services.db).find(who=OF_TEAM).page.items
        scored = [
            one for one in services.evaluations.list(EvaluationQuery(namespace="team"), who=OF_TEAM).items if one.digest
        ]
        newest = scored[-1]
        assert entry.score is not None
        assert entry.score.value == newest.metrics[entry.score.metric]
        assert (entry.score.evaluation, entry.score.dataset) == (newest.id, newest.dataset)
        found = VersionScores(services.db).of_adapter(
            adapter=ADAPTER, kind=None, numbers=[entry.score.number or 0], who=OF_TEAM
        )
        assert found.by_version[entry.score.number or 0].value == entry.score.value
        assert AdapterSearch(services.db).find(who=OF_ANOTHER).page.items == []

    def test_its_warnings_and_signatures_are_there(self, services: Services) -> None:
        (warning,) = services.catalog.resolve(f"{ADAPTER}@v5", who=OF_TEAM).warnings
        assert "v_proj" in warning
        digest = services.catalog.resolve(f"{ADAPTER}@v2", who=OF_TEAM).digest
        (signature,) = services.signatures.list(digest, who=OF_TEAM)
        assert (signature.bundle, signature.created_by) == ("{}", "ana")

    def test_its_aliases_are_protected_and_move_on_from_their_history(self, services: Services) -> None:
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
        move = AliasMove(adapter=ADAPTER, alias="production", number=2, expect=1)
        with pytest.raises(Forbidden, match="protected"):
            services.gate.move(move=move, who=Principal("ana", {"team": Role.WRITER}))
        assert services.gate.move(move=move, who=SYSTEM).number == 2
        assert services.catalog.resolve(f"{ADAPTER}@production", who=SYSTEM).number == 2

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
        assert (quota.max_adapters, quota.max_bytes, quota.max_jobs) == (9, 10**10, 9)
        assert (quota.adapters, quota.jobs) == (1, 1)

    def test_its_audit_trail_and_answers_are_there(self, services: Services) -> None:
        said = services.audit.list(AuditQuery(action="version.*"), who=SYSTEM).items
        assert ("version.delete", f"{ADAPTER}@v4") in [(entry.action, entry.subject) for entry in said]
        assert ("version.archive", f"{ADAPTER}@v3") in [(entry.action, entry.subject) for entry in said]
        with services.db.read() as session:
            (answered,) = session.scalars(select(KeyedRequest)).all()
        assert answered.key == "once"

    def test_its_removed_files_are_gone_and_the_rest_is_open_to_who_reads_there(self, services: Services) -> None:
        rule = services.removal.retention("summary", who=SYSTEM).rule
        assert rule.keep_last == 3
        (dataset,) = services.datasets.list(cursor=None, limit=9, who=OF_TEAM).items
        for name in (dataset.digest, "rows", "rows@v1"):
            assert services.datasets.locate(name, who=OF_TEAM).sha256 == dataset.digest
        for number in (1, 2, 3):
            digest = services.catalog.resolve(f"{ADAPTER}@v{number}", who=OF_TEAM).digest
            for file in services.artifacts.download(digest, who=OF_TEAM):
                name = file.url.rpartition("/")[2]
                assert name.startswith(f"{file.sha256}.")
                assert len(name) == 97
        for gone, stranger in ((_deleted(services), SYSTEM), (digest, OF_ANOTHER)):
            with pytest.raises(NotFound):
                services.artifacts.download(gone, who=stranger)
        with pytest.raises(NotFound):
            services.datasets.locate(dataset.digest, who=OF_ANOTHER)

    def test_its_jobs_and_scores_are_there(self, services: Services) -> None:
        jobs = services.jobs.list(state=None, cursor=None, limit=10, who=OF_TEAM).items
        assert sorted((job.kind, job.state.value) for job in jobs) == [
            ("evaluation", "succeeded"),
            ("training", "cancelled"),
            ("training", "queued"),
            ("training", "succeeded"),
        ]
        assert services.jobs.list(state=None, cursor=None, limit=10, who=OF_ANOTHER).items == []
        trained = next(job for job in jobs if job.kind == "training" and job.state == "succeeded")
        assert trained.result["ref"] == f"{ADAPTER}@v1"
        (evaluation,) = services.evaluations.list(EvaluationQuery(limit=10), who=OF_TEAM).items
        assert (evaluation.ref, evaluation.metrics["loss"]) == (f"{ADAPTER}@v1", 1.5)
        with services.db.read() as session:
            metrics = session.scalars(select(EvaluationMetric).order_by(EvaluationMetric.name)).all()
        assert [(one.name, one.namespace, one.digest) for one in metrics] == [
            (name, "team", evaluation.digest) for name in ("loss", "rouge_l")
        ]

    def test_its_training_goes_on_from_its_checkpoint(self, services: Services) -> None:
        worker = WorkerInfo(name="node-1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33)
        held = services.claims.claim(claim=ClaimRequest(worker=worker), who=SYSTEM)
        assert held.attempt == 2
        assert (held.checkpoint.job, held.checkpoint.step) == (held.job, 10)
        attempts = services.jobs.attempts(held.job, who=OF_TEAM)
        assert [(attempt.attempt, attempt.state) for attempt in attempts] == [(1, "released"), (2, "running")]

    def test_what_its_namespaces_keep_in_the_database_is_counted(self, services: Services) -> None:
        assert recount(services.db, within_s=60) == 0
        assert services.quotas.get("team", who=SYSTEM).records_bytes > 1000
        # Each row is measured as a new one would be, but for evaluations, whose names of metrics count as rows.
        wrong = mismeasured(services, "team", "-", "*")
        assert [one for one in wrong if not one.startswith(("evaluation ", "events of "))] == []


def _deleted(services: Services) -> str:
    """The digest of the version that was deleted."""
    with services.db.read() as session:
        return session.scalars(select(Version.digest).where(Version.state == "deleted")).one()
