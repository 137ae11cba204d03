"""Rows that have had their time: exactly those go, on both databases, and what a later reader needs stays."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import DatabaseError
from support.fixtures import Limits
from support.people import new_adapter, submit, training
from support.registries import World, embedded
from support.working import Held, line

from registry.access.keys import KeyedRequest
from registry.access.models import AuditEntry, Token
from registry.artifacts.models import Blob, ManifestBlob, ManifestRow, Upload, UploadBlob, UploadPart
from registry.catalog.models import Origin, Version, VersionDataset, VersionParent, VersionTag, VersionTarget
from registry.db.types import Model, utc_now
from registry.jobs.models import Attempt, Job, JobEvent
from registry.principal import LOCAL, Role
from registry.removal import expiry
from registry.removal.expiry import Expiry
from registry.removal.lifetimes import Lifetimes
from registry.removal.models import AuditExport, DailyWork
from sdk.client import Client
from sdk.errors import NotFound
from sdk.schemas.artifacts import BlobSpec, UploadRequest, UploadView

OLD = timedelta(days=1000)


def count(world: World, model: type[Model], *conditions: Any) -> int:
    with world.services.db.read() as session:
        return session.scalar(select(func.count()).select_from(model).where(*conditions)) or 0


def age(world: World, model: type[Model], condition: Any, *columns: str, by: timedelta = OLD) -> None:
    """Let rows be of long ago."""
    with world.services.db.write() as session:
        session.execute(update(model).where(condition).values(dict.fromkeys(columns, utc_now() - by)))


@pytest.fixture
def writer(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.WRITER})


@pytest.fixture
def finished(
    acting: Callable[..., Client], writer: Client, space: str, rows: Path, tmp_path: Path
) -> tuple[Client, str]:
    """A writer, and a job of theirs that has succeeded and left events, an attempt and a version."""
    data = writer.datasets.add(rows, namespace=space).digest
    job = submit(writer, training(f"{space}/made", data))
    held = Held.claim(acting(**{space: Role.WORKER}), tmp_path)
    held.report(line("hello"))
    held.complete()
    return writer, job.id


def test_what_happened_to_old_jobs_goes_and_what_came_of_them_stays(
    people: World, finished: tuple[Client, str], space: str
) -> None:
    writer, job = finished
    ref = f"{space}/made@v1"
    before = (writer.get(ref).info, writer.lineage(ref), writer.job(job).result().ref)
    people.services.expiry.run()
    assert count(people, JobEvent, JobEvent.job_id == job) > 2
    age(people, Job, Job.id == job, "finished_at", "created_at")
    age(people, JobEvent, JobEvent.job_id == job, "at")
    age(people, Attempt, Attempt.job_id == job, "finished_at")
    gone = people.services.expiry.run()
    assert (gone["job_events"] > 2, gone["job_attempts"]) == (True, 1)
    assert (count(people, JobEvent, JobEvent.job_id == job), count(people, Attempt, Attempt.job_id == job)) == (0, 0)
    assert (writer.get(ref).info, writer.lineage(ref), writer.job(job).result().ref) == before


def test_of_a_job_that_goes_on_nothing_goes(
    people: World, acting: Callable[..., Client], writer: Client, space: str, rows: Path, tmp_path: Path
) -> None:
    job = submit(writer, training(f"{space}/long", writer.datasets.add(rows, namespace=space).digest))
    held = Held.claim(acting(**{space: Role.WORKER}), tmp_path)
    age(people, JobEvent, JobEvent.job_id == job.id, "at")
    age(people, Job, Job.id == job.id, "created_at", "started_at")
    there = count(people, JobEvent, JobEvent.job_id == job.id)
    people.services.expiry.run()
    assert count(people, JobEvent, JobEvent.job_id == job.id) == there > 0
    held.fail()


def test_failed_pushes_go_and_numbers_of_deleted_versions_stay(
    people: World, admin: Client, writer: Client, space: str, tmp_path: Path
) -> None:
    pushed = writer.push(new_adapter(tmp_path), f"{space}/kept", base="tiny")
    admin.versions.delete(pushed.ref)
    again = writer.push(new_adapter(tmp_path), f"{space}/kept", base="tiny")
    with people.services.db.write() as session:
        row = session.scalars(select(Version).where(Version.digest == again.digest)).one()
        same = {column.key: getattr(row, column.key) for column in Version.__table__.columns if column.key != "pk"}
        failed = Version(**{**same, "number": None, "digest": "f" * 64, "manifest_digest": None, "state": "failed"})
        session.add(failed)
        session.flush()
        # All that a version may have.
        session.add(Origin(version_pk=failed.pk, metrics={}, libraries={}, created_by="ann"))
        session.add(VersionTag(version_pk=failed.pk, key="team", value="a"))
        session.add(VersionTarget(version_pk=failed.pk, module="q_proj"))
        session.add(VersionDataset(version_pk=failed.pk, digest="d" * 64, weight=1.0))
        session.add(VersionParent(version_pk=failed.pk, parent_pk=row.pk, relation="resumed"))
    of = Version.digest == "f" * 64
    people.services.expiry.run()
    assert count(people, Version, of) == 1
    age(people, Version, of, "created_at")
    age(people, Version, Version.digest == pushed.digest, "created_at", "moved_at")
    people.services.expiry.run()
    assert count(people, Version, of) == 0
    assert writer.push(new_adapter(tmp_path), f"{space}/kept", base="tiny").number == 3


def test_a_step_that_fails_keeps_neither_the_others_nor_a_home_from_being_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    with embedded(home) as world, world.services.db.write() as session:
        session.add(KeyedRequest(owner="o", key="old", request_digest="f", created_at=utc_now() - OLD))
        session.execute(update(DailyWork).values(begun_at_s=0.0))
        session.execute(text("ALTER TABLE job_events RENAME TO job_events_away"))
    with closing(Client(f"local:{home}")) as client:
        assert client.adapters() == []
    with closing(sqlite3.connect(home / "registry.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM keyed_requests").fetchone() == (0,)
    assert "expired rows of job_events could not be removed" in caplog.text


def test_of_a_token_that_is_long_over_the_name_is_left(people: World, admin: Client, space: str) -> None:
    made = people.services.tokens.create(name=f"gone-{space}", grants={space: Role.ADMIN}, who=LOCAL)
    people.services.tokens.revoke(made.id, who=LOCAL)
    assert made.id in {token.id for token in admin.tokens()}
    age(people, Token, Token.id == made.id, "revoked_at")
    assert people.services.expiry.run()["tokens"] >= 1
    assert made.id not in {token.id for token in admin.tokens()}
    with pytest.raises(NotFound):
        admin.tokens.revoke(made.id)
    with people.services.db.read() as session:
        row = session.get_one(Token, made.id)
        assert (row.name, row.grants) == (f"gone-{space}", [])


def test_upload_sessions_that_are_over_go_with_all_that_was_said_in_them(people: World, writer: Client) -> None:
    blob = BlobSpec(sha256="e" * 64, size_bytes=7)
    over, open_one = (
        writer.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=[blob])).id for _ in range(2)
    )
    with people.services.db.write() as session:
        places = session.scalars(select(UploadBlob.stored_as).where(UploadBlob.upload_id == over)).all()
        session.add(UploadPart(stored_as=places[0], number=1, sha256="d" * 64))
        session.add(UploadPart(stored_as="left behind", number=1, sha256="d" * 64))
    age(people, Upload, Upload.id == over, "created_at", "expires_at")
    people.services.expiry.run()
    assert (count(people, Upload, Upload.id == over), count(people, UploadBlob, UploadBlob.upload_id == over)) == (0, 0)
    # The other session goes on at the same place.
    assert count(people, UploadBlob, UploadBlob.upload_id == open_one) == 1
    assert count(people, UploadPart, UploadPart.stored_as == places[0]) == 1
    assert count(people, UploadPart, UploadPart.stored_as == "left behind") == 0


def test_of_files_that_were_collected_only_what_is_named_stays(
    people: World, admin: Client, writer: Client, space: str, tmp_path: Path
) -> None:
    pushed = writer.push(new_adapter(tmp_path), f"{space}/named", base="tiny")
    with people.services.db.write() as session:
        for model in (Blob, ManifestRow):
            session.execute(update(model).where(model.collected_at.is_not(None)).values(collected_at=utc_now()))
        for at, letter in ((utc_now() - OLD, "c"), (utc_now(), "d")):
            session.add(Blob(sha256=letter * 64, size_bytes=1, collected_at=at))
            session.add(ManifestRow(digest=letter * 64, kind="merged", body="{}", size_bytes=1, collected_at=at))
            session.flush()
            session.add(ManifestBlob(manifest_digest=letter * 64, sha256=letter * 64))
    # As if the files of a version had been given up long ago: its history is kept.
    admin.versions.delete(pushed.ref)
    age(people, ManifestRow, ManifestRow.digest == pushed.digest, "collected_at")
    gone = people.services.expiry.run()
    assert (gone["collected_manifests"], gone["collected_blobs"]) == (1, 1)
    for model, key in ((Blob, Blob.sha256), (ManifestRow, ManifestRow.digest)):
        assert (count(people, model, key == "c" * 64), count(people, model, key == "d" * 64)) == (0, 1)
    assert count(people, ManifestRow, ManifestRow.digest == pushed.digest) == 1
    assert writer.push(new_adapter(tmp_path), f"{space}/named", base="tiny").number == 2


def test_old_answers_go(people: World) -> None:
    with people.services.db.write() as session:
        for key, days in (("old", 8), ("young", 6)):
            at = utc_now() - timedelta(days=days)
            session.add(KeyedRequest(owner="0" * 64, key=key, request_digest="x", body="", created_at=at))
    people.services.expiry.run()
    with people.services.db.read() as session:
        assert session.scalars(select(KeyedRequest.key).where(KeyedRequest.owner == "0" * 64)).all() == ["young"]
    with people.services.db.write() as session:
        session.execute(delete(KeyedRequest).where(KeyedRequest.owner == "0" * 64))


def test_it_is_done_once_a_day_by_one_of_many(people: World) -> None:
    def due() -> None:
        with people.services.db.write() as session:
            session.execute(delete(DailyWork))

    due()
    one, other = (Expiry(people.services.db, Lifetimes()) for _ in range(2))
    assert one.run_if_due() is not None
    assert other.run_if_due() is None
    with people.services.db.write() as session:
        session.execute(update(DailyWork).values(begun_at_s=DailyWork.begun_at_s - 86_401))
    assert other.run_if_due() is not None
    assert one.run_if_due() is None


def test_a_run_that_takes_long_goes_on_later(people: World, limits: Limits) -> None:
    with people.services.db.write() as session:
        session.execute(delete(DailyWork))
        at = utc_now() - OLD
        for number in range(1200):
            said = {"request_digest": "x", "body": "", "created_at": at}
            session.add(KeyedRequest(owner="1" * 64, key=str(number), **said))
    limits(expiry, _AT_ONCE_S=0.0)
    assert people.services.reconciler.sweep()["expired_rows"] > 0
    assert count(people, KeyedRequest, KeyedRequest.owner == "1" * 64) > 0
    assert people.services.reconciler.sweep()["expired_rows"] == 0
    with people.services.db.write() as session:
        session.execute(update(DailyWork).values(begun_at_s=DailyWork.begun_at_s - 61))
    limits(expiry, _AT_ONCE_S=60.0)
    people.services.reconciler.sweep()
    assert count(people, KeyedRequest, KeyedRequest.owner == "1" * 64) == 0


class TestAudit:
    def test_entries_leave_the_trail_only_once_a_file_has_them(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        for _ in range(3):
            people.services.tokens.create(name=f"some-{space}-{_}", grants={space: Role.READER}, who=LOCAL)
        there = count(people, AuditEntry)
        # Nobody says where to: nothing goes, however old.
        assert Expiry(people.services.db, Lifetimes(audit_days=0.0)).run()["audit_entries"] == 0
        folder = tmp_path / "trail"
        writing = Expiry(people.services.db, Lifetimes(audit_days=0.0, audit_folder=str(folder)))
        gone = writing.run()["audit_entries"]
        assert gone >= there
        written = [json.loads(text) for path in sorted(folder.iterdir()) for text in path.read_text().splitlines()]
        assert len(written) >= there
        assert [entry["pk"] for entry in written] == sorted({entry["pk"] for entry in written})
        assert {"token.create"} <= {entry["action"] for entry in written if entry["namespace"] == space}
        with people.services.db.read() as session:
            for export in session.scalars(select(AuditExport)):
                path = folder / export.file
                if path.exists():
                    assert hashlib.sha256(path.read_bytes()).hexdigest() == export.sha256
        # What is left says what was written out.
        assert {entry.action for entry in admin.audit()} <= {"audit.export", "token.create"}

    def test_what_lies_in_no_file_can_t_be_removed(self, people: World, space: str) -> None:
        people.services.tokens.create(name=f"one-{space}", grants={space: Role.READER}, who=LOCAL)
        for statement in (
            delete(AuditEntry).where(AuditEntry.namespace == space),
            update(AuditEntry).values(actor="x"),
            delete(AuditExport),
        ):
            with people.services.db.write() as session:
                if isinstance(statement, type(delete(AuditExport))) and statement.table.name == "audit_exports":
                    session.add(AuditExport(first_pk=-2, last_pk=-1, entries=1, file="x", sha256="x"))
                    session.flush()
                with pytest.raises(DatabaseError, match="only appended to"):
                    session.execute(statement)
                session.rollback()

    def test_a_folder_that_can_t_be_written_to_costs_nothing(self, people: World, tmp_path: Path) -> None:
        there = count(people, AuditEntry)
        (tmp_path / "file").write_text("")
        writing = Expiry(people.services.db, Lifetimes(audit_days=0.0, audit_folder=str(tmp_path / "file" / "trail")))
        assert "audit_entries" not in writing.run()
        assert count(people, AuditEntry) == there
