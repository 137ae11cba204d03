"""Servers of the release before and of this one over one database: each finds what the other has written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, Table, create_engine, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from support.adapters import SPEC, base_registration, digest
from support.schemas import ASSETS, downgrade

from registry.app.services import Services, build
from registry.artifacts.models import ManifestRow
from registry.catalog.models import NamedBase
from registry.db.clock import utc_now
from registry.db.statements import append
from registry.errors import NotFound
from registry.jobs.models import Job
from registry.principal import LOCAL, SYSTEM, Principal, Role
from registry.queue import NoQueue
from registry.settings import Settings
from sdk.schemas.catalog import BaseFix, BaseRegistration, BaseSelector
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.work import Assignment, ClaimRequest, WorkerInfo

TEAM = Principal("ana", {"team": Role.ADMIN}, "t1")
OTHER = Principal("bo", {"other": Role.ADMIN}, "t2")
#: An hour of those servers: no clock of theirs is compared with one of this release.
THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class OldServer:
    """Writes and reads what a server of schema 0004 does, in the same statements, and knows no other columns."""

    def __init__(self, services: Services) -> None:
        self._services = services
        known = create_engine(f"sqlite:///file:{ASSETS / 'schema_0004.sqlite3'}?mode=ro&uri=true")
        self._columns = {
            table: [column["name"] for column in inspect(known).get_columns(table)]
            for table in inspect(known).get_table_names()
        }
        known.dispose()

    def table(self, name: str) -> Table:
        metadata = MetaData()
        metadata.reflect(self._services.db.engine, only=[name])
        return metadata.tables[name]

    def insert(self, name: str, /, *, unless_there: bool = False, **values: Any) -> bool:
        assert set(values) <= set(self._columns[name])
        engine = self._services.db.engine
        statement: Any = (postgresql if engine.dialect.name == "postgresql" else sqlite).insert(self.table(name))
        statement = statement.values(**values)
        if unless_there:
            statement = statement.on_conflict_do_nothing()
        with self._services.db.write() as session:
            keys = list(self.table(name).primary_key.columns)
            return session.execute(statement.returning(*keys)).first() is not None

    def read(self, name: str, /, **key: Any) -> dict[str, Any] | None:
        """A row as those servers see it."""
        table = self.table(name)
        query = select(*(table.c[column] for column in self._columns[name]))
        with self._services.db.read() as session:
            row = session.execute(query.where(*(table.c[k] == v for k, v in key.items()))).first()
        return None if row is None else row._asdict()

    def record(self, action: str, namespace: str, subject: str, **said: Any) -> None:
        self.insert(
            "audit_entries", at=utc_now(), actor="ana", action=action, namespace=namespace, subject=subject, **said
        )

    def register_base(self, base: BaseRegistration) -> None:
        facts = base.model_dump(include=set(self._columns["bases"]))
        new = self.insert("bases", unless_there=True, **facts, created_by="ana", created_at=THEN)
        assert new
        after = {"id": base.id, "location": base.location, "manifest": None}
        self.record("base.register", "*", base.fingerprint, after=after)

    def move_base(self, fingerprint: str, location: str, manifest: str) -> None:
        table = self.table("bases")
        with self._services.db.write() as session:
            of = table.update().where(table.c.fingerprint == fingerprint)
            session.execute(of.values(location=location, manifest_digest=manifest))
        after = {"location": location, "manifest": manifest}
        self.record("base.move", "*", fingerprint, before={"location": None, "manifest": None}, after=after)

    def register_data(self, content: str, *, namespace: str = "team", name: str = "rows") -> str:
        """Register rows; say nothing to the trail where they are there already, as those servers do."""
        sha256 = digest(content)
        said: dict[str, Any] = {"size_bytes": 9, "format": "jsonl", "rows": 3, "shape": "chat", "name": name}
        self.insert("blobs", unless_there=True, sha256=sha256, size_bytes=9, created_at=THEN, stored_as=sha256)
        self.insert("datasets", unless_there=True, digest=sha256, created_by="ana", created_at=THEN, **said)
        opened = self.insert("dataset_access", unless_there=True, digest=sha256, namespace=namespace)
        if opened or self.removed_at(sha256) is not None:
            self._set_removed(sha256, None)
            self.record("dataset.register", namespace, sha256, after={"name": name})
        return sha256

    def remove_data(self, sha256: str, *, namespace: str = "team") -> None:
        table = self.table("dataset_access")
        mine = (table.c.digest == sha256, table.c.namespace == namespace)
        with self._services.db.write() as session:
            assert session.execute(table.delete().where(*mine).returning(table.c.namespace)).all()
        if self.read("dataset_access", digest=sha256) is None:
            self._set_removed(sha256, utc_now())
        self.record("dataset.remove", namespace, sha256, before={"name": ""})

    def removed_at(self, sha256: str) -> datetime | None:
        found: datetime | None = (self.read("datasets", digest=sha256) or {})["removed_at"]
        return found

    def _set_removed(self, sha256: str, moment: datetime | None) -> None:
        table = self.table("datasets")
        with self._services.db.write() as session:
            session.execute(table.update().where(table.c.digest == sha256).values(removed_at=moment))

    def submit(self, base: BaseRegistration, data: str) -> str:
        choice = BaseChoice(id=base.id, revision=base.revision, fingerprint=base.fingerprint)
        request = TrainingRequest(adapter="team/a", base=choice, data=data, spec=SPEC)
        job = digest(base.id)[:12]
        self.insert(
            "jobs",
            id=job,
            namespace="team",
            kind="training",
            state="queued",
            subject="team/a",
            request=request.model_dump(mode="json"),
            request_digest="0" * 64,
            priority=0,
            failures=0,
            attempt=0,
            cancel_requested=False,
            created_by="ana",
            created_at=utc_now(),
        )
        return job

    def record_checkpoint(self, job: str, step: int, manifest: str) -> None:
        said: dict[str, Any] = {"total": 90, "attempt": 1, "manifest_digest": manifest, "size_bytes": 1, "report": {}}
        said |= {"created_at": THEN + timedelta(seconds=step), "kept": False, "expires_at": None}
        if self.read("job_checkpoints", job_id=job, step=step) is None:
            self.insert("job_checkpoints", job_id=job, step=step, **said)
            return
        table = self.table("job_checkpoints")
        with self._services.db.write() as session:
            of = table.update().where(table.c.job_id == job, table.c.step == step)
            session.execute(of.values(**said | {"created_at": utc_now()}))


@pytest.fixture(params=["sqlite", "postgresql"])
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgres_database")
    settings = Settings(
        database_url=url, storage_url=(tmp_path / "artifacts").as_uri(), auth="none", embedded_home=str(tmp_path)
    )
    found = build(settings, queue=NoQueue())
    found.db.upgrade()
    yield found
    found.db.close()


@pytest.fixture
def old(services: Services) -> OldServer:
    return OldServer(services)


def claim(services: Services) -> Assignment | None:
    worker = WorkerInfo(name="w1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33)
    return services.claims.claim(claim=ClaimRequest(worker=worker), who=SYSTEM)


def add_manifest(services: Services, name: str) -> str:
    row = {"digest": digest(name), "kind": "base", "body": "{}", "size_bytes": 1}
    with services.db.write() as session:
        append(session, ManifestRow, row)
    return digest(name)


def listed(services: Services, who: Principal = LOCAL) -> list[tuple[Any, ...]]:
    rows = services.datasets.list(cursor=None, limit=9, who=who).items
    return [(row.name, row.format, row.rows, row.shape) for row in rows]


class TestBases:
    def test_one_that_an_old_server_registers_is_everybodys(self, services: Services, old: OldServer) -> None:
        base = base_registration("tiny")
        old.register_base(base)
        for who in (LOCAL, OTHER):
            (found,) = services.bases.list(cursor=None, limit=9, who=who).items
            assert (found.id, found.namespace, found.location, found.facts) == ("tiny", "*", base.location, "claimed")
        assert services.bases.get("tiny", who=OTHER).config == base.config
        job = old.submit(base, old.register_data("rows"))
        given = claim(services)
        assert given is not None
        assert (given.job, given.datasets) == (job, {digest("rows"): "jsonl"})
        assert given.base is not None
        assert (given.base.id, given.base.location) == ("tiny", base.location)
        # Again at a new one, it is the same base.
        services.bases.register(base=base.model_copy(update={"namespace": "*"}), who=LOCAL)
        assert len(services.bases.list(cursor=None, limit=9, who=LOCAL).items) == 1

    def test_one_that_an_old_server_moves_is_there_where_it_says(self, services: Services, old: OldServer) -> None:
        base = base_registration("tiny", location=None)
        services.bases.register(base=base, who=LOCAL)
        services.bases.register(base=base.model_copy(update={"namespace": "team"}), who=TEAM)
        old.move_base(base.fingerprint, "hf://tests/moved@1", files := add_manifest(services, "files"))
        with services.db.read() as session:
            rows = session.execute(select(NamedBase.namespace, NamedBase.location, NamedBase.manifest_digest)).all()
        assert sorted(tuple(row) for row in rows) == [("*", "hf://tests/moved@1", files), ("team", None, None)]

    def test_one_that_a_new_server_registers_is_whole_for_an_old_one(self, services: Services, old: OldServer) -> None:
        base = base_registration("tiny", namespace="team")
        services.bases.register(base=base, who=TEAM)
        seen = old.read("bases", fingerprint=base.fingerprint)
        wanted = base.model_dump(include={"id", "revision", "location", "config", "tensors", "size_bytes"})
        assert seen is not None
        assert {name: seen[name] for name in wanted} == wanted
        # What is published goes before what a namespace says for itself; the first goes before others.
        second = base.model_copy(update={"namespace": "other", "location": "hf://tests/other@1"})
        services.bases.register(base=second, who=OTHER)
        assert (old.read("bases", fingerprint=base.fingerprint) or {})["location"] == base.location
        services.bases.register(
            base=base.model_copy(update={"namespace": "*", "location": "hf://tests/all@1"}), who=SYSTEM
        )
        assert (old.read("bases", fingerprint=base.fingerprint) or {})["location"] == "hf://tests/all@1"
        services.bases.fix(
            fix=BaseFix(name="tiny", namespace="*", id="small", location="hf://tests/small@1"), who=SYSTEM
        )
        seen = old.read("bases", fingerprint=base.fingerprint) or {}
        assert (seen["id"], seen["location"]) == ("small", "hf://tests/small@1")
        for namespace, left in (("*", base.location), ("team", "hf://tests/other@1"), ("other", None)):
            services.bases.remove(name=BaseSelector(name=base.fingerprint, namespace=namespace), who=SYSTEM)
            assert (old.read("bases", fingerprint=base.fingerprint) or {})["location"] == left

    @pytest.mark.parametrize("namespace", ["*", "team"])
    def test_one_of_this_release_comes_down_whole(self, services: Services, old: OldServer, namespace: str) -> None:
        base = base_registration("tiny", namespace=namespace)
        services.bases.register(base=base, who=SYSTEM if namespace == "*" else TEAM)
        downgrade(services.db, "0004")
        seen = old.read("bases", fingerprint=base.fingerprint) or {}
        wanted = base.model_dump(include={"id", "revision", "location", "config", "tensors", "size_bytes"})
        assert {name: seen[name] for name in wanted} == wanted


class TestDatasets:
    def test_one_that_an_old_server_registers_is_as_it_said(self, services: Services, old: OldServer) -> None:
        sha256 = old.register_data("rows")
        assert listed(services) == listed(services, TEAM) == [("rows", "jsonl", 3, "chat")]
        assert listed(services, OTHER) == []
        assert services.datasets.list(cursor=None, limit=9, who=TEAM).items[0].created_at > THEN
        assert services.datasets.locate("rows", who=TEAM).sha256 == sha256
        # A second namespace calls it as it likes.
        old.register_data("rows", namespace="other", name="mine")
        assert listed(services, OTHER) == [("mine", "jsonl", 3, "chat")]
        assert listed(services, TEAM) == [("rows", "jsonl", 3, "chat")]

    def test_jobs_over_one_that_an_old_server_gives_up_end(self, services: Services, old: OldServer) -> None:
        old.register_base(base := base_registration("tiny"))
        sha256 = old.register_data("rows")
        old.register_data("rows", namespace="other")
        job = old.submit(base, sha256)
        old.remove_data(sha256)
        assert (listed(services, TEAM), len(listed(services, OTHER))) == ([], 1)
        # That a stranger has the same rows is no leave to use them.
        assert claim(services) is None
        assert services.jobs.get(job, who=TEAM).reason == "gone"

    def test_the_last_of_both_kinds_of_servers_gives_up_the_bytes(self, services: Services, old: OldServer) -> None:
        sha256 = old.register_data("rows")
        old.register_data("rows", namespace="other")
        services.datasets.remove(sha256, who=TEAM)
        assert old.removed_at(sha256) is None
        old.remove_data(sha256, namespace="other")
        assert old.removed_at(sha256) is not None

    @pytest.mark.parametrize("by", ["old", "new"])
    def test_one_that_was_given_up_is_added_again_by_an_old_server(
        self, services: Services, old: OldServer, by: str
    ) -> None:
        for others in (False, True):
            sha256 = old.register_data(f"rows {others}")
            if others:
                old.register_data(f"rows {others}", namespace="other")
            if by == "old":
                old.remove_data(sha256)
            else:
                services.datasets.remove(sha256, who=TEAM)
            with pytest.raises(NotFound):
                services.datasets.locate(sha256, who=TEAM)
            old.register_data(f"rows {others}")
            assert services.datasets.locate(sha256, who=TEAM).sha256 == sha256


class TestJobs:
    def test_an_attempt_of_an_old_server_has_no_deadline_of_an_earlier_one(
        self, services: Services, old: OldServer
    ) -> None:
        old.register_base(base := base_registration("tiny"))
        job = old.submit(base, old.register_data("rows"))
        assert claim(services) is not None
        jobs, attempts = old.table("jobs"), old.table("job_attempts")
        with services.db.write() as session:
            session.execute(attempts.update().values(deadline_s=1.0))
            # As those servers queue a job again, and give it out.
            session.execute(attempts.update().values(state="lost"))
            session.execute(jobs.update().values(state="queued", worker=None, lease_until_s=None))
            running = {"state": "running", "attempt": 2, "worker": "w2", "lease_until_s": 1e10, "started_at": utc_now()}
            session.execute(jobs.update().values(**running))
        old.insert("job_attempts", job_id=job, attempt=2, worker="w2", state="running", started_at=utc_now())
        assert services.claims.requeue_expired() == 0
        with services.db.read() as session:
            assert session.get_one(Job, job).state == "running"

    def test_the_checkpoint_that_an_old_server_records_last_is_the_last(
        self, services: Services, old: OldServer
    ) -> None:
        old.register_base(base := base_registration("tiny"))
        job = old.submit(base, old.register_data("rows"))
        manifest = add_manifest(services, "checkpoint")
        for step in (10, 20):
            old.record_checkpoint(job, step, manifest)
        # Those a server of this release might have recorded.
        table = old.table("job_checkpoints")
        with services.db.write() as session:
            session.execute(table.update().values(seq=table.c.step // 10))
        old.record_checkpoint(job, 30, manifest)
        assert [found.step for found in services.checkpoints.list(job, who=LOCAL)] == [30, 20, 10]
        # It could not go on from there, and has begun anew.
        old.record_checkpoint(job, 10, manifest)
        assert [found.step for found in services.checkpoints.list(job, who=LOCAL)] == [10, 30, 20]
