"""No job runs for ever, none that is cancelled comes back, and no server's clock decides: on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import select, text, update
from support.registries import World
from support.waiting import wait_until
from support.working import Held

import registry.db.types
from registry.app.services import Services
from registry.db.types import db_epoch_s
from registry.jobs import attempts
from registry.jobs.attempts import OVERTIME_S, TimeLimits
from registry.jobs.models import Attempt, Job
from registry.principal import LOCAL, SYSTEM
from registry.queue import NoQueue
from registry.settings import Settings
from sdk.errors import Conflict, InvalidInput
from sdk.schemas.jobs import JobView


def hold(crew: Crew) -> Held:
    return Held.claim(crew.worker, crew.tmp_path)


def end_time(crew: Crew, job: str) -> None:
    """Let the time of every attempt be over."""
    with crew.world.services.db.write() as session:
        session.execute(update(Attempt).where(Attempt.job_id == job).values(deadline_s=1.0))


class TestTimeLimits:
    def test_a_job_without_a_timeout_has_the_default(self, crew: Crew) -> None:
        crew.submit()
        assert hold(crew).assignment.timeout_s == Settings.job_timeout_default_s == 86_400

    def test_a_job_that_asks_for_more_than_is_allowed_is_refused(self, crew: Crew) -> None:
        crew.submit(timeout_s=Settings.job_timeout_max_s)
        with pytest.raises(InvalidInput, match="longer than the 604800 s that this registry allows") as caught:
            crew.submit(timeout_s=Settings.job_timeout_max_s + 1)
        assert caught.value.param == "timeout_s"

    def test_a_limit_that_was_lowered_since_holds(self, crew: Crew) -> None:
        for stored, given in ((10**9, 604_800), (60.0, 60.0)):
            job = crew.submit().id
            with crew.world.services.db.write() as session:
                session.execute(update(Job).where(Job.id == job).values(timeout_s=stored))
            assert hold(crew).assignment.timeout_s == given

    def test_an_attempt_that_its_worker_does_not_end_is_ended(self, crew: Crew) -> None:
        job = crew.submit(timeout_s=60.0).id
        held = hold(crew)
        with crew.world.services.db.read() as session:
            left_s = session.scalar(select(Attempt.deadline_s - db_epoch_s()).where(Attempt.job_id == job)) or 0.0
        assert left_s == pytest.approx(60.0 + OVERTIME_S, abs=30)
        assert crew.world.services.claims.requeue_expired() == 0
        end_time(crew, job)
        held.report()
        assert crew.world.services.claims.requeue_expired() == 1
        view = crew.writer.jobs.view(job)
        assert (view.state, view.reason) == ("failed", "timeout")
        assert f"adapterctl jobs retry {job}" in (view.message or "")
        with pytest.raises(Conflict):
            held.report()

    def test_the_time_of_one_attempt_is_none_of_the_next(self, crew: Crew) -> None:
        job = crew.submit().id
        held = hold(crew)
        end_time(crew, job)
        held.release()
        assert crew.world.services.claims.requeue_expired() == 0
        hold(crew).report()
        assert crew.world.services.claims.requeue_expired() == 0
        assert crew.view(job).state == "running"

    def test_a_default_above_the_most_is_the_most(self) -> None:
        limits = TimeLimits(default_s=100.0, most_s=10.0)
        assert (limits.of_submission(None), limits.of_job(None), limits.of_job(50.0)) == (10.0, 10.0, 10.0)


class TestCancel:
    def test_what_has_ended_otherwise_is_not_cancelled(self, crew: Crew) -> None:
        done, failed = crew.submit().id, crew.submit().id
        hold(crew).complete()
        hold(crew).fail("data")
        for job, state in ((done, "succeeded"), (failed, "failed")):
            with pytest.raises(Conflict, match=f"job {job} has {state} and can't be cancelled; .*jobs show {job}"):
                crew.writer.jobs.cancel(job)
            assert crew.writer.jobs.view(job).cancel_requested is False

    def test_a_cancel_while_the_job_is_given_back_is_not_lost(self, crew: Crew) -> None:
        job = crew.submit().id
        held = hold(crew)
        db = crew.world.services.db
        cancelled: list[JobView] = []
        cancelling = threading.Thread(target=lambda: cancelled.append(crew.writer.jobs.cancel(job)))
        with db.write() as session:
            attempts.release(session, job, held.assignment.attempt, who=SYSTEM)
            session.flush()
            cancelling.start()
            if db.engine.dialect.name == "postgresql":
                wait_for_lock(crew.world.services)
        cancelling.join(30)
        assert [view.state for view in cancelled] == ["cancelled"]
        assert crew.writer.jobs.view(job).state == "cancelled"


def wait_for_lock(services: Services) -> None:
    """Wait until some statement of this database waits for a row."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with services.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_until(lambda: connection.scalar(query), "nobody waits", 30)


@contextmanager
def clock_ahead(monkeypatch: pytest.MonkeyPatch, **ahead: float) -> Iterator[None]:
    """Requests of this process are served as by a server whose clock is ahead, or behind."""

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(**ahead)

    with monkeypatch.context() as patched:
        patched.setattr(registry.db.types, "datetime", Skewed)
        yield


class TestClocks:
    """Servers of one registry may be minutes apart."""

    def test_the_last_checkpoint_is_the_one_that_was_recorded_last(
        self, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = crew.submit().id
        held = hold(crew)
        with clock_ahead(monkeypatch, hours=1):
            held.checkpoint(10, 30)
        held.checkpoint(20, 30)
        with clock_ahead(monkeypatch, hours=-1):
            held.checkpoint(30, 30)
        assert [found.step for found in crew.writer.jobs.checkpoints(job)] == [30, 20, 10]
        assert crew.writer.jobs.view(job).checkpoint_step == 30
        held.release()
        again = hold(crew).assignment.checkpoint
        assert again.step == 30

    def test_workers_are_not_silent_for_a_server_that_is_ahead(
        self, people: World, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if people.services.db.engine.dialect.name != "postgresql":
            pytest.skip("SQLite's servers share one clock")
        job = crew.submit().id
        other = Services(people.services.settings, storage=people.services.artifacts.storage, queue=NoQueue())
        hold(crew).release()
        with clock_ahead(monkeypatch, minutes=10):
            workers = other.workers.list(who=LOCAL)
            assert {worker.name: worker.state for worker in workers}["w1"] == "idle"
            assert other.jobs.get(job, who=LOCAL).waits == "a worker is about to take it"
        other.db.close()
