"""Migrations: complete on both databases, run once by whoever comes first, and never left half done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DatabaseError
from support import processes
from support.schemas import (
    ASSETS,
    downgrade,
    kept_revisions,
    load_past,
    revisions,
    rows_of,
    shape_of,
    triggers_of,
    upgrade_to,
)

from registry.access.tokens import Tokens
from registry.artifacts.models import ManifestRow
from registry.catalog.models import Version, VersionClaims
from registry.db.database import Database, head_revision, migrations_folder
from registry.db.types import utc_now
from registry.deadlines import Timeouts
from registry.errors import Unavailable
from registry.jobs.models import Checkpoint, Job
from registry.ops.schema import METADATA, drift
from registry.principal import SYSTEM, Role
from registry.usage.charging import charge

#: What server processes do at their start, each a fork of one that has imported what they need; they begin at one moment.
UPGRADES = """
import os, sys
import alembic.command, psycopg, sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite
from registry.db.database import Database
url, count = sys.argv[1], int(sys.argv[2])
waiting, begin = os.pipe()
children = []
for _ in range(count):
    pid = os.fork()
    if pid == 0:
        os.close(begin)
        database = Database(url)
        os.read(waiting, 1)
        database.upgrade()
        os.write(1, f"{database.revision()}\\n".encode())
        sys.exit(0)
    children.append(pid)
os.close(begin)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in children))
"""


@pytest.fixture
def db(empty_database_url: str) -> Iterator[Database]:
    """An empty database."""
    database = Database(empty_database_url)
    yield database
    database.close()


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
    shapes = {}
    for revision in revisions():
        upgrade_to(db, revision)
        assert db.revision() == revision
        shapes[revision] = shape_of(db)
    assert drift(db) == []
    for revision in reversed(revisions()):
        assert shape_of(db) == shapes[revision]
        below = [other for other in revisions() if other < revision]
        downgrade(db, below[-1] if below else "base")
    assert set(inspect(db.engine).get_table_names()) <= {"alembic_version"}
    assert triggers_of(db) == []
    assert db.revision() is None
    db.upgrade()
    assert drift(db) == []


def test_a_migration_that_fails_leaves_nothing(db: Database) -> None:
    with db.write() as session:
        # A table of a stranger is in the way of one of the last that the first migration makes.
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
    done = processes.finished(
        sys.executable, "-c", UPGRADES, db.url, "8", cwd=migrations_folder().parent, timeout_s=120
    )
    assert (done.returncode, done.stdout.split()) == (0, 8 * [head_revision()]), done.stderr
    assert drift(db) == []
    with db.read() as session:
        assert len(session.execute(text("SELECT version_num FROM alembic_version")).all()) == 1


def test_a_migration_that_runs_elsewhere_is_waited_for_only_so_long(empty_postgres_database: str) -> None:
    db = Database(empty_postgres_database, Timeouts(migration_lock_s=0.2))
    with db.engine.connect() as somebody, somebody.begin():
        somebody.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": 0x6164617074657263})
        with pytest.raises(Unavailable, match="try again"):
            db.upgrade()
    db.upgrade()
    assert drift(db) == []
    db.close()


def test_the_audit_trail_is_guarded_while_it_is_there(db: Database) -> None:
    db.upgrade()
    assert triggers_of(db) != []
    Tokens(db).create(name="ci", grants={"*": Role.READER}, who=SYSTEM)
    refused = ["UPDATE audit_entries SET actor = 'nobody'", "DELETE FROM audit_entries"]
    if db.engine.dialect.name == "postgresql":
        refused.append("TRUNCATE audit_entries")
    for statement in refused:
        with pytest.raises(DatabaseError, match="only appended to"), db.engine.begin() as connection:
            connection.execute(text(statement))
    downgrade(db, "base")
    assert triggers_of(db) == []
    db.upgrade()
    assert triggers_of(db) != []


def test_an_older_release_finds_no_member_that_waits_and_lets_go_what_members_kept(db: Database) -> None:
    db.upgrade()
    with db.write() as session:
        session.add(ManifestRow(digest="m" * 64, kind="adapter", body="{}", size_bytes=1))
        about = {"kind": "training", "subject": "a", "request": {}, "request_digest": "d" * 64, "created_by": "a"}
        session.add(Job(id="waits", state="queued", sweep="s", sweep_number=1, **about))
        session.add(Job(id="ended", state="succeeded", sweep="s", sweep_number=2, **about))
        session.add(Job(id="alone", state="queued", **about))
        session.flush()
        kept = {"step": 1, "total": 1, "attempt": 1, "manifest_digest": "m" * 64, "size_bytes": 1, "report": {}}
        session.add_all(Checkpoint(job_id=name, **kept) for name in ("ended", "alone"))
    downgrade(db, "0023")
    with db.read() as session:
        states = dict(session.execute(text("SELECT id, state FROM jobs")).all())
        last = set(session.scalars(text("SELECT job_id FROM job_checkpoints WHERE expires_at IS NULL")))
    assert (states, last) == ({"waits": "cancelled", "ended": "succeeded", "alone": "queued"}, {"alone"})


def test_an_older_release_charges_nobody_for_claims(db: Database) -> None:
    load_past(db)
    db.upgrade()
    charged = "SELECT namespace, records_bytes FROM usage ORDER BY namespace"
    with db.read() as session:
        before = session.execute(text(charged)).all()
        versions = session.scalars(select(Version).limit(2)).all()
        assert len(versions) == 2
    with db.write() as session:
        for version in versions:
            claims = {"text": "{}", "created_by": "ana", "created_at": utc_now(), "record_bytes": 202}
            session.add(VersionClaims(version_pk=version.pk, **claims))
            charge(session, "team", records=202)
    with db.read() as session:
        assert session.execute(text(charged)).all() != before
    downgrade(db, "0031")
    with db.read() as session:
        assert session.execute(text(charged)).all() == before
    db.upgrade()
    assert drift(db) == []


@pytest.mark.parametrize("revision", ["0001", "9999"])
@pytest.mark.parametrize(
    "command",
    [["serve"], ["token", "create", "--role", "admin"], ["gc"], ["reconcile", "--once"]],
    ids=" ".join,
)
def test_a_program_of_another_schema_says_what_to_run(command: list[str], revision: str, tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    load_past(db)
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    before = rows_of(db)
    env = processes.environment(
        REGISTRY_DATABASE_URL=db.url,
        REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri(),
        REGISTRY_PUBLIC_URL="http://127.0.0.1:1",
    )
    port = ["--port", str(processes.free_port())] if command == ["serve"] else []
    said = processes.run("adapter-registry", *command, *port, env=env, timeout_s=60)
    assert (said.returncode, said.stdout) == (9, ""), said.stderr
    (line,) = said.stderr.splitlines()
    wanted = "run: adapter-registry db upgrade" if revision == "0001" else "pip install --upgrade adapterctl"
    assert line.startswith(f"error: the database is at revision {revision}, ")
    assert line.endswith(wanted)
    assert rows_of(db) == before
    db.close()


@pytest.mark.slow
def test_servers_that_start_at_once_after_an_upgrade_all_serve(db: Database, tmp_path: Path) -> None:
    env = processes.environment(REGISTRY_DATABASE_URL=db.url, REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri())
    done = processes.run("adapter-registry", "db", "upgrade", env=env)
    assert (done.returncode, done.stdout.strip()) == (0, head_revision()), done.stderr
    ports = [processes.free_port() for _ in range(3)]
    started = [
        processes.running("adapter-registry", "serve", "--port", str(port), env=env, log=tmp_path / f"{port}.log")
        for port in ports
    ]
    try:
        for server in started:
            server.__enter__()
        for port in ports:
            processes.wait_until_healthy(f"http://127.0.0.1:{port}", log=tmp_path / f"{port}.log")
    finally:
        for server in started:
            server.__exit__(None, None, None)
    for port in ports:
        assert "Traceback" not in (tmp_path / f"{port}.log").read_text()


def test_each_kept_registry_is_of_a_known_schema() -> None:
    assert set(kept_revisions()) <= set(revisions())
    for path in ASSETS.glob("schema_*.sqlite3"):
        assert path.stat().st_size < 300_000
