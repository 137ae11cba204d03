"""Migrations: complete on both databases, run once by whoever comes first, and kind to what earlier schemas hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, select, text

from registry.auth.principal import SYSTEM
from registry.auth.service import Tokens
from registry.catalog.models import AliasMoveRow
from registry.db import Database, head_revision, migrations_folder
from registry.queue import NoQueue
from registry.schema import METADATA, drift
from registry.services import Services, build
from registry.settings import Settings
from sdk.schemas.jobs import ClaimRequest, WorkerInfo

ASSETS = Path(__file__).resolve().parent.parent / "assets"

#: What a server process does at its start, said once everybody is ready.
UPGRADE = """
import sys
from registry.db import Database
database = Database(sys.argv[1])
sys.stdin.readline()
database.upgrade()
print(database.revision())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    else:
        url = request.getfixturevalue("postgres_database")
    database = Database(url)
    yield database
    database.engine.dispose()


def downgrade(db: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["engine"] = db.engine
    command.downgrade(config, revision)


def test_the_migrations_make_what_the_models_mean(db: Database) -> None:
    db.upgrade()
    assert db.revision() == head_revision()
    assert drift(db) == []
    tables = set(inspect(db.engine).get_table_names())
    assert tables == {*METADATA.tables, "alembic_version"}


def test_drift_is_seen(db: Database) -> None:
    db.upgrade()
    with db.write() as session:
        session.execute(text("ALTER TABLE workers DROP COLUMN version"))
        session.execute(text("CREATE TABLE strangers (pk INTEGER)"))
    found = {change[0] for change in drift(db)}
    assert found == {"add_column", "remove_table"}


def test_what_goes_up_comes_down_and_goes_up_again(db: Database) -> None:
    db.upgrade()
    downgrade(db, "base")
    assert set(inspect(db.engine).get_table_names()) <= {"alembic_version"}
    assert db.revision() is None
    db.upgrade()
    assert drift(db) == []


def test_a_migration_that_fails_leaves_nothing(db: Database) -> None:
    with db.write() as session:
        # A table of a stranger is in the way of the last one that the first migration makes.
        session.execute(text("CREATE TABLE version_parents (pk INTEGER)"))
    with pytest.raises(Exception, match="already exists"):
        db.upgrade()
    assert set(inspect(db.engine).get_table_names()) <= {"alembic_version", "version_parents"}
    assert db.revision() is None
    with db.write() as session:
        session.execute(text("DROP TABLE version_parents"))
    db.upgrade()
    assert drift(db) == []


def test_servers_that_start_at_once_migrate_once(db: Database) -> None:
    url = db.engine.url.render_as_string(hide_password=False)
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=migrations_folder().parent,
            text=True,
        )
        for _ in range(3)
    ]
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("go\n")
        server.stdin.flush()
    for server in servers:
        said, complained = server.communicate(timeout=60)
        assert (server.returncode, said.strip()) == (0, head_revision()), complained
    assert drift(db) == []
    with db.read() as session:
        assert len(session.execute(text("SELECT version_num FROM alembic_version")).all()) == 1


def test_every_past_schema_is_kept() -> None:
    revisions = {path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py")}
    kept = {path.stem.removeprefix("schema_") for path in ASSETS.glob("schema_*.sqlite3")}
    made_by = {path.stem.removeprefix("make_schema_") for path in ASSETS.glob("make_schema_*.py")}
    assert kept == made_by
    assert kept == revisions


class TestSchema0001:
    """A registry of the first release, brought to the newest schema and read through the services."""

    @pytest.fixture
    def services(self, tmp_path: Path) -> Iterator[Services]:
        shutil.copy(ASSETS / "schema_0001.sqlite3", tmp_path / "registry.sqlite3")
        settings = Settings(
            database_url=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
            storage_url=(tmp_path / "artifacts").as_uri(),
            auth="none",
            embedded_home=str(tmp_path),
        )
        built = build(settings, queue=NoQueue())
        assert built.db.revision() == "0001"
        built.db.upgrade()
        assert drift(built.db) == []
        yield built
        built.db.engine.dispose()

    def test_its_versions_and_aliases_are_there(self, services: Services) -> None:
        versions = services.catalog.versions(
            adapter="team/code-review", archived=False, cursor=None, limit=9, who=SYSTEM
        ).items
        assert [version.ref for version in versions] == ["team/code-review@v2", "team/code-review@v1"]
        second = services.catalog.resolve("team/code-review@production", who=SYSTEM)
        assert second == versions[0]
        assert (second.state, second.description, second.tags) == ("ready", "number 2", {"team": "a"})
        assert (second.metrics, second.training) == ({"loss": 0.5}, {"lr": 0.0002, "max_steps": 2})
        assert second.quantization is not None
        assert second.quantization.type == "nf4"
        assert second.dataset is not None
        assert second.dataset.digest == services.datasets.list(cursor=None, limit=1, who=SYSTEM).items[0].digest
        assert second.base == services.catalog.resolve("team/code-review@v1", who=SYSTEM).base
        assert second.base.id == services.bases.get("tiny").id
        assert second.manifest.digest == second.digest
        with services.db.read() as session:
            moves = session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.pk)).all()
        assert [(move.from_number, move.to_number, move.reason) for move in moves] == [
            (None, 1, "to v1"),
            (1, 2, "to v2"),
        ]

    def test_its_jobs_and_evaluations_are_there(self, services: Services) -> None:
        jobs = services.jobs.list(state=None, cursor=None, limit=10, who=SYSTEM).items
        assert sorted((job.kind, job.state.value) for job in jobs) == [
            ("evaluation", "succeeded"),
            ("training", "cancelled"),
            ("training", "queued"),
            ("training", "succeeded"),
        ]
        trained = next(job for job in jobs if job.kind == "training" and job.state == "succeeded")
        assert trained.result is not None
        assert trained.result["ref"] == "team/code-review@v1"
        (evaluation,) = services.evaluations.list(
            digest=None, job=None, base=None, cursor=None, limit=10, who=SYSTEM
        ).items
        assert (evaluation.ref, evaluation.metrics) == ("team/code-review@v2", {"loss": 1.5})

    def test_its_waiting_job_is_given_to_a_worker(self, services: Services) -> None:
        worker = WorkerInfo(name="node-1", device="cpu", memory_bytes=1, free_memory_bytes=1)
        held = services.claims.claim(claim=ClaimRequest(worker=worker), who=SYSTEM)
        assert held is not None
        assert held.attempt == 1
        assert services.jobs.get(held.job, who=SYSTEM).state == "running"

    def test_its_tokens_are_listed(self, services: Services) -> None:
        (token,) = Tokens(services.db).list(who=SYSTEM)
        assert (token.name, [(grant.namespace, grant.role) for grant in token.grants]) == ("ci", [("*", "writer")])
