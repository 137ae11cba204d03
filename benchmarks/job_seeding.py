"""Fills a registry's PostgreSQL with finished jobs, in minutes, all of it in SQL.

    python benchmarks/job_seeding.py postgresql://user@host/name 1000000

Each is a copy of the one job of the registry that has succeeded last, with its events, attempts, evaluations and audit
entries, under an id of its own and a second later than the one before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from sqlalchemy import text

from registry.access.models import AuditEntry
from registry.db.database import Database
from registry.db.types import Model
from registry.deadlines import Timeouts
from registry.evaluations.models import Evaluation, EvaluationMetric
from registry.jobs.models import Attempt, Job, JobEvent

#: The ids of copy number `i`, as long as those that the registry gives.
_ID = "'5eed' || lpad(to_hex(i), 8, '0')"
#: A moment in the past, later for a later copy.
_AT = "now() - (interval '1 second' * (:count - i + 60))"


def seed_finished(database_url: str, count: int) -> None:
    """Insert `count` finished jobs. The registry must have one that has succeeded."""
    # Millions of rows in one statement.
    db = Database(database_url, Timeouts(statement_s=3600, deadline_s=3600))
    with db.engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        # What is copied refers to rows that are there; looking each of them up would take most of the time.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        job = connection.scalar(text("SELECT id FROM jobs WHERE state = 'succeeded' ORDER BY finished_at DESC LIMIT 1"))
        for statement in _statements():
            given = {"job": job, "count": count}
            connection.execute(text(statement), {name: given[name] for name in given if f":{name}" in statement})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        # Else it would be written out while somebody measures.
        connection.execute(text("CHECKPOINT"))
    db.close()


def _statements() -> list[str]:
    moments = {"created_at": _AT, "started_at": _AT, "finished_at": _AT}
    of_job = "t.job_id = :job"
    return [
        _copies(
            Job,
            {**moments, "id": _ID, "idempotency_key": f"'seed-' || {_ID}", "created_by": "'seed'"},
            where="t.id = :job",
        ),
        _copies(Attempt, {**moments, "job_id": _ID}, where=of_job),
        _copies(JobEvent, {"job_id": _ID, "at": _AT}, where=of_job, numbered="seq"),
        _copies(Evaluation, {"id": f"{_ID} || substr(t.id, 1, 4)", "job_id": _ID, "created_at": _AT}, where=of_job),
        _copies(
            EvaluationMetric,
            {"evaluation_id": f"{_ID} || substr(t.evaluation_id, 1, 4)"},
            where="t.evaluation_id IN (SELECT id FROM evaluations WHERE job_id = :job)",
        ),
        _copies(
            AuditEntry,
            {"at": _AT, "subject": f"CASE WHEN t.subject = :job THEN {_ID} ELSE t.subject END"},
            where="t.subject = :job OR t.after ->> 'job' = :job",
            numbered="pk",
        ),
    ]


def _copies(model: type[Model], changed: Mapping[str, str], *, where: str, numbered: str | None = None) -> str:
    """The statement that copies rows `t` as often as asked; the database numbers the column `numbered` itself."""
    table = model.__tablename__
    columns = [column.name for column in model.__table__.columns if column.name != numbered]
    values = [changed.get(column, f't."{column}"') for column in columns]
    order = "" if numbered is None else f" ORDER BY i, t.{numbered}"
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "
        f"FROM {table} t, generate_series(1, CAST(:count AS integer)) i WHERE {where}{order}"
    )


if __name__ == "__main__":
    seed_finished(sys.argv[1], int(sys.argv[2]))
