"""Who makes a sweep go on: whoever hands in a member, or else somebody who has nothing to do with it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from contract.jobs.helpers import Crew
from contract.sweeps.helpers import Desk, held_out_rows, killed
from sqlalchemy import func, select
from support import calls
from support.adapters import base_registration
from support.registries import World, named_anew

from registry.app.services import Services
from registry.errors import StaleAttempt
from registry.jobs.models import Job
from registry.principal import LOCAL, Role
from registry.queue import NoQueue
from registry.sweeps.driving import Driver
from registry.sweeps.models import Member
from sdk.api import sweeps
from sdk.client import Client
from sdk.schemas.sweep_axes import Range, Values
from sdk.schemas.sweeps import SweepView


class Nobody:
    """A process that is killed before it goes on."""

    def ended(self, sweep: str) -> None:
        """Do nothing."""

    def go_on(self) -> int:
        """Do nothing."""
        return 0

    def is_left(self) -> bool:
        """Say that nothing is."""
        return False


class OnlyTold(Nobody):
    """A server whose reconciler comes later."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def ended(self, sweep: str) -> None:
        """Go on."""
        self.driver.ended(sweep)


class Asked(NoQueue):
    """A queue that is asked for somebody who works."""

    revived = 0

    def revive(self) -> None:
        """Count it."""
        self.revived += 1


def begin_with_room(desk: Desk) -> SweepView:
    """Begin a sweep whose first member has ended, and that has room and no job queued: whoever took that member in was killed
    right after.
    """
    services = desk.world.services
    sweep = desk.begin(parallel=1)
    services.followers.follow(Nobody())
    desk.finish(desk.hold(), 1.0)
    assert desk.crew.claim() is None
    services.followers.follow(services.driver)
    assert [member.state for member in desk.view(sweep).members] == ["succeeded"]
    return sweep


@pytest.fixture
def own(embedded: World, rows: Path, tmp_path: Path) -> Desk:
    """A desk of a registry in a folder."""
    embedded.admin.bases.register(base_registration())
    data = embedded.writer.datasets.add(rows, namespace="-").digest
    crew = Crew(embedded, "own", embedded.writer, embedded.worker, data, tmp_path)
    return Desk(crew, embedded.writer.datasets.add(held_out_rows(tmp_path), namespace="-").digest)


class TestRoomWithoutJobs:
    def test_reconciler_goes_on(self, desk: Desk) -> None:
        sweep = begin_with_room(desk)
        assert desk.world.services.reconciler.sweep()["sweeps_advanced"] > 0
        desk.train_all(0.9, 1.1)
        assert (desk.view(sweep).state, desk.view(sweep).winner) == ("ended", 2)
        assert desk.world.services.reconciler.sweep()["sweeps_advanced"] == 0

    def test_broker_is_told_of_the_next_member(self, desk: Desk, valkey_url: str) -> None:
        begin_with_room(desk)
        settings = replace(desk.world.services.settings, broker_url=valkey_url)
        other = Services(settings, storage=desk.world.services.artifacts.storage)
        desk.crew.others.append(other)
        other.reconciler.sweep()
        with redis.Redis.from_url(valkey_url) as client:
            bodies = [base64.b64decode(json.loads(raw)["body"]) for raw in client.lrange("gpu", 0, -1)]
        assert [desk.hold().job] in [json.loads(body)[0] for body in bodies]

    def test_runner_of_a_folder_is_started_by_whoever_comes_next(self, own: Desk) -> None:
        queue = Asked()
        begin_with_room(own)
        next_command = Services(own.world.services.settings, queue=queue)
        try:
            next_command.jobs.revive()
            assert queue.revived == 1
            own.train_all(0.9, 1.1)
            next_command.jobs.revive()
            assert queue.revived == 1
        finally:
            next_command.db.close()

    def test_runner_of_a_folder_asks_before_it_ends(self, own: Desk) -> None:
        sweep = begin_with_room(own)
        held = own.crew.claim()
        assert held is not None
        assert held.job == own.view(sweep).members[1].job
        own.finish(held, 0.9)
        own.train_all(1.1)
        assert own.crew.claim() is None
        assert own.view(sweep).winner == 2


class TestEnd:
    def test_whoever_hands_in_the_last_member_does_not_wait_for_the_choice(self, desk: Desk) -> None:
        services = desk.world.services
        sweep = desk.begin()
        desk.train_all(1.0, 0.9)
        held = desk.hold()
        services.followers.follow(OnlyTold(services.driver))
        desk.finish(held, 1.1)
        services.followers.follow(services.driver)
        assert desk.view(sweep).state == "choosing"
        services.reconciler.sweep()
        assert (desk.view(sweep).state, desk.view(sweep).winner) == ("ended", 2)


class TestKills:
    def test_process_may_be_killed_before_and_after_each_commit(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever it was doing, the next one continues from there: every member has one job, and one version is made."""
        services = desk.world.services
        services.followers.follow(Nobody())
        sweep = desk.begin(parallel=2, seeds=2, settings={"lr": Values(values=[1e-4, 2e-4])})
        losses = iter((1.0, 0.9, 0.8, 0.7))
        kills = 0
        while desk.view(sweep).state != "ended":
            while True:
                with killed(monkeypatch, after=False) as before:
                    services.driver.advance(sweep.id, ends=True)
                with killed(monkeypatch, after=True) as after:
                    services.driver.advance(sweep.id, ends=True)
                kills += before.count + after.count
                if not after.count:
                    break
            while (held := desk.crew.claim()) is not None:
                desk.finish(held, next(losses))
        services.followers.follow(services.driver)
        ended = desk.view(sweep)
        assert kills > 10
        assert [(member.number, member.state) for member in ended.members] == [(n, "succeeded") for n in (1, 2, 3, 4)]
        assert (ended.winner, ended.members[3].ref) == (4, f"{desk.crew.space}/a@v1")
        assert len(list(desk.writer.versions(f"{desk.crew.space}/a"))) == 1
        with services.db.read() as session:
            assert session.scalar(select(func.count()).where(Job.sweep == sweep.id)) == 4

    def test_two_processes_at_once_propose_and_submit_each_trial_once(self, desk: Desk) -> None:
        services = desk.world.services
        axes = {"lr": Range(low=1e-4, high=1e-3, log=True)}
        sweep = desk.begin(sample="random", trials=12, parallel=5, settings=axes)
        others = [services, desk.crew.services()]
        for _ in range(4):
            services.followers.follow(Nobody())
            for _ in range(3):
                if (held := desk.crew.claim()) is not None:
                    desk.finish(held, 1.0)
            services.followers.follow(services.driver)
            calls.at_once(
                [lambda other=other: other.driver.advance(sweep.id) for other in others], refused=StaleAttempt
            )
            waiting = [member for member in desk.view(sweep).members if member.state in ("queued", "running")]
            assert len(waiting) <= 5
        with services.db.read() as session:
            trials = session.scalars(select(Member.trial).where(Member.sweep == sweep.id)).all()
            # A setting that is drawn twice is trained once.
            alone = select(Member.number).where(Member.sweep == sweep.id, Member.same_as.is_(None))
            trained = session.scalars(alone).all()
            jobs = session.scalars(select(Job.sweep_number).where(Job.sweep == sweep.id)).all()
        assert sorted(trials) == list(range(1, len(trials) + 1))
        assert sorted(jobs) == sorted(trained)
        assert len(trials) == 12


class TestRights:
    def test_sweep_of_a_token_that_ended_waits_for_somebody_who_lets_it_go_on(self, desk: Desk) -> None:
        tokens = desk.world.services.tokens
        made = named_anew(tokens, "leaver", {desk.crew.space: Role.WRITER}, who=LOCAL)
        leaver = Client(desk.world.url, made.secret, cache=desk.world.folder / "cache")
        sweep = desk.begin(parallel=1, by=leaver)
        leaver.close()
        tokens.revoke(made.id, who=LOCAL)
        desk.finish(desk.hold(), 1.0)
        paused = desk.view(sweep)
        assert (paused.state, paused.created_by) == ("paused", made.name)
        assert "revoked" in str(paused.message)
        assert desk.crew.claim() is None
        sweeps.go(desk.writer.transport, sweep.id)
        desk.train_all(0.9, 1.1)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, ended.created_by) == ("ended", 2, made.name)

    def test_sweep_of_a_namespace_without_room_waits_until_there_is_some(self, desk: Desk) -> None:
        desk.world.admin.quotas.set(desk.crew.space, max_jobs=1)
        sweep = desk.begin()
        waiting = desk.view(sweep)
        assert (waiting.state, len(waiting.members)) == ("running", 1)
        assert "waits: " in str(waiting.message)
        desk.world.admin.quotas.set(desk.crew.space, max_jobs=10)
        desk.world.services.reconciler.sweep()
        assert (len(desk.view(sweep).members), desk.view(sweep).message) == (3, None)
