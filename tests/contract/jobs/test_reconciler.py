"""What is looked after in the background."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import delete, text
from support.calls import worker_info
from support.registries import SHORT_LEASE_S
from support.statements import sent
from support.waiting import wait_until

from registry.db.statements import append
from registry.jobs.models import Job, Sweeper
from registry.jobs.reconcile import in_background, note_sweep, sweepers
from registry.principal import LOCAL
from sdk.errors import StaleAttempt
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.work import (
    ClaimRequest,
    Heartbeat,
    HeartbeatReply,
)


class TestReconciler:
    def test_it_queues_again_what_nobody_holds(self, crew: Crew) -> None:
        job = crew.submit()
        services = crew.services(lease_s=SHORT_LEASE_S)
        services.claims.claim(claim=ClaimRequest(worker=worker_info()), who=LOCAL)
        with in_background(crew.services(lease_s=60.0).reconciler, every_s=0.05):
            wait_until(lambda: crew.view(job.id).state == "queued", timeout_s=30)
        assert [row.state for row in crew.attempts(job.id)] == ["lost"]
        with pytest.raises(StaleAttempt):
            crew.worker.call("POST", f"/jobs/{job.id}/heartbeat", HeartbeatReply, body=Heartbeat(attempt=1))

    def test_one_leads_and_another_takes_over(self, crew: Crew) -> None:
        if crew.world.services.db.engine.dialect.name != "postgresql":
            pytest.skip("on SQLite each process sweeps")
        first, second = crew.services(), crew.services()
        swept: list[str] = []
        for name, services in (("first", first), ("second", second)):
            services.reconciler.sweep = lambda name=name: swept.append(name)  # type: ignore[method-assign,misc]

        stop = threading.Event()
        leader = threading.Thread(target=first.reconciler.run, kwargs={"every_s": 0.02, "stop": stop})
        leader.start()
        wait_until(lambda: "first" in swept, timeout_s=30)
        with in_background(second.reconciler, every_s=0.02):
            time.sleep(0.3)
            assert set(swept) == {"first"}
            stop.set()
            leader.join()
            wait_until(lambda: "second" in swept, timeout_s=30)

    def test_progress_is_kept_across_a_claim_of_another(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        progress = Progress(phase="train", step=1, total=2, loss=1.0)
        beat = Heartbeat(attempt=1, events=[NewEvent(kind="progress", progress=progress)])
        crew.worker.call("POST", f"/jobs/{job.id}/heartbeat", HeartbeatReply, body=beat)
        crew.release(held)
        crew.hold()
        events = crew.writer.job(job.id).events()
        assert [(event.attempt, event.state or event.progress.loss) for event in events] == [  # type: ignore[union-attr]
            (0, "queued"),
            (1, "running"),
            (1, 1.0),
            (1, "queued"),
            (2, "running"),
        ]


def test_a_claim_looks_through_a_long_queue_once(crew: Crew) -> None:
    db = crew.world.services.db
    if db.engine.dialect.name != "postgresql":
        pytest.skip("SQLite looks through it once anyway")
    known = crew.submit()
    with db.read() as session:
        row = session.get_one(Job, known.id)
        columns = {column.key: getattr(row, column.key) for column in Job.__table__.columns}

    def add(count: int, state: str) -> None:
        made = [{**columns, "id": f"{state}-{n}", "idempotency_key": None, "state": state} for n in range(count)]
        with db.write() as session:
            append(session, Job, *made)

    add(5_000, "succeeded")
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # From here on the database expects that hardly any job waits.
        connection.execute(text("ANALYZE jobs"))
    add(300, "queued")
    with sent(db) as seen:
        crew.hold()
    (claim,) = [one for one in seen if "SKIP LOCKED" in one.sql]
    with db.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {claim.sql}", claim.parameters).scalar_one()
        connection.rollback()

    def rows_of(node: dict[str, Any]) -> float:
        own = node["Actual Rows"] * node["Actual Loops"] if node.get("Relation Name") == "jobs" else 0
        return own + sum(rows_of(below) for below in node.get("Plans", []))

    assert rows_of(plan[0]["Plan"]) < 10 * 300, plan
    with db.write() as session:
        session.execute(delete(Job).where(Job.id.like("succeeded-%") | Job.id.like("queued-%")))


def test_a_step_that_fails_stops_no_other_and_no_sweep(crew: Crew) -> None:
    services = crew.services()
    taken: list[str] = []

    def fails() -> int:
        taken.append("failing")
        raise ValueError("one row of it is odd")

    def works() -> int:
        taken.append("working")
        return 1

    services.reconciler._steps = {"failing": fails, "working": works}
    with in_background(services.reconciler, every_s=0.01):
        wait_until(lambda: taken.count("working") >= 3, timeout_s=30)
    assert taken[:4] == ["failing", "working"] * 2


def test_monitoring_is_told_who_leads_and_since_when(crew: Crew) -> None:
    services = crew.services()
    name = f"{socket.gethostname()}:{os.getpid()}"

    def told() -> dict[str, float]:
        shown = crew.world.services.metrics.exposition().decode()
        return {
            line.partition("{")[0]: float(line.rpartition(" ")[2])
            for line in shown.splitlines()
            if f'name="{name}"' in line
        }

    with services.db.write() as session:
        # Those of earlier tests.
        session.execute(delete(Sweeper))
    assert told() == {}
    with in_background(services.reconciler, every_s=0.01):
        swept = "adapterctl_reconciler_swept_at_seconds"
        first = wait_until(told, timeout_s=30)
        wait_until(lambda: told()[swept] > first[swept], timeout_s=30)
        last = told()
    since = "adapterctl_reconciler_leader_since_seconds"
    assert first[since] == last[since] <= first[swept] < last[swept]
    assert abs(time.time() - last[since]) < 60
    with services.db.write() as session:
        # Another process has come to lead since.
        note_sweep(session, "elsewhere:1", led=False, alone=services.db.engine.dialect.name == "postgresql")
        leaders = [row[0] for row in sweepers(session)]
    expected = ["elsewhere:1"] if services.db.engine.dialect.name == "postgresql" else sorted(["elsewhere:1", name])
    assert leaders == expected
    with services.db.write() as session:
        session.execute(delete(Sweeper))
