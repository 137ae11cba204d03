"""How a worker holds a job, over real HTTP: while the registry is away, and while other threads are busy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from faults.plans import Fault, Head, Script, Strike
from faults.proxy import FaultProxy
from sqlalchemy import delete
from support import calls, processes, registries
from support.adapters import SPEC, base_registration, save_adapter
from support.fixtures import Limits
from support.points import faults, points_of
from support.registries import World
from support.workplace import wait_until

from registry.access.authentication import TRUST_S
from registry.principal import LOCAL, Role
from registry.series.models import JobSeries
from sdk.api.work import claim
from sdk.client import Client
from sdk.schemas.catalog import BaseView
from sdk.schemas.events import Event as JobEvent
from sdk.schemas.events import Progress
from sdk.schemas.job_requests import BaseChoice, CheckpointPolicy, TrainingRequest
from sdk.schemas.jobs import CheckpointView, JobSubmission, JobView
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.series import Point, PointChunk
from sdk.schemas.work import Assignment, ClaimRequest, Release, WorkerInfo
from workers.child.process import WarmChild
from workers.child.protocol import WrittenCheckpoint
from workers.kinds import points, reports
from workers.kinds.attempt import Attempt
from workers.kinds.checkpoints import CheckpointSender
from workers.kinds.points import PointSender
from workers.kinds.reports import Reports
from workers.lease import heartbeat
from workers.lease.heartbeat import Lease, apart
from workers.lease.stop_signal import StopReason, StopSignal
from workers.node.inputs import AttemptInputs
from workers.node.shutdown import Shutdown
from workers.node.transfers import Transfers
from workers.settings import WorkerSettings
from workers.trackers import forwarding
from workers.trackers.tracker import BegunRun, RunEnd, Training

LEASE_S = 6.0
#: Where a test waits for its end.
SHORT_LEASE_S = 3.0
WORKER = WorkerInfo(name="tested", device="cpu", memory_bytes=2**40, free_memory_bytes=2**40)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("holding")
    with registries.served(folder, lease_s=LEASE_S) as world:
        yield world


@pytest.fixture(scope="module")
def base(world: World) -> BaseView:
    return world.admin.bases.register(base_registration())


@pytest.fixture
def proxy(world: World) -> Iterator[FaultProxy]:
    """What stands between this worker and its registry."""
    host, _, port = world.url.removeprefix("http://").partition(":")
    with FaultProxy() as proxy:
        proxy.upstream = (host, int(port))
        yield proxy


@pytest.fixture
def client(world: World, proxy: FaultProxy, tmp_path: Path) -> Iterator[Client]:
    client = Client(proxy.url, world.token(Role.WORKER), cache=tmp_path / "cache")
    yield client
    client.close()


@dataclass(frozen=True)
class Held:
    """A job that this worker holds, and when it asked for it."""

    assignment: Assignment
    claimed_at: float

    @property
    def job(self) -> str:
        """Its id."""
        return self.assignment.job

    def by(self, client: Client) -> Lease:
        """Hold it through a client."""
        return Lease(client, self.assignment, claimed_at=self.claimed_at)


@pytest.fixture
def short_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.services.claims, "_lease_s", SHORT_LEASE_S)


def _claimed(world: World, base: BaseView, client: Client, folder: Path, namespace: str, adapter: str) -> Held:
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": str(folder), "completion": "b"}) + "\n")
    request = TrainingRequest(
        adapter=adapter,
        base=BaseChoice(id=base.id, revision=base.revision, fingerprint=base.fingerprint),
        data=world.writer.datasets.add(rows, namespace=namespace).digest,
        spec=SPEC,
        checkpoint=CheckpointPolicy(),
    )
    job = world.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request)).id
    claimed_at = time.monotonic()
    assignment = claim(client.transport, ClaimRequest(worker=WORKER, hint=job))
    assert assignment.job == job
    return Held(assignment, claimed_at)


@pytest.fixture
def held(world: World, base: BaseView, client: Client, tmp_path: Path) -> Iterator[Held]:
    """A training that this worker holds."""
    held = _claimed(world, base, client, tmp_path, "-", "held")
    yield held
    world.services.jobs.cancel(held.job, who=world.principal(Role.WRITER))


def _news_of(world: World, held: Held) -> list[JobEvent]:
    return [event for event in world.writer.jobs.events(held.job) if event.kind != "state"]


def _wait_for_news(world: World, held: Held, count: int) -> None:
    wait_until(lambda: len(_news_of(world, held)) == count, lambda: "they did not arrive", timeout_s=60)


class TestHeartbeats:
    def test_a_job_is_held_beyond_its_lease_and_its_news_arrive(
        self, world: World, client: Client, held: Held, limits: Limits
    ) -> None:
        limits(heartbeat, _NEWS_EVERY_S=LEASE_S / 4)
        with apart(client) as own, held.by(own) as lease:
            lease.report(Progress(phase="load", step=1))
            _wait_for_news(world, held, 1)
            # What follows soon waits a moment, and of counts within a phase only the newest is of use.
            lease.report(Progress(phase="load", message="in 4 bits"))
            lease.report(Progress(phase="load", step=2))
            lease.report(Progress(phase="load", step=3))
            lease.report(Progress(phase="train", step=1, loss=1.0))
            lease.log("a line")
            time.sleep(1.2 * LEASE_S)
            assert not lease.lost
            assert not lease.cancelled
        assert world.writer.jobs.view(held.job).state == "running"
        said = [
            (event.progress.message or event.progress.step) if event.progress else event.message
            for event in _news_of(world, held)
        ]
        assert said == [1, "in 4 bits", 3, 1, "a line"]

    def test_the_first_news_goes_out_at_once(self, world: World, client: Client, held: Held, limits: Limits) -> None:
        limits(heartbeat, _NEWS_EVERY_S=3600.0)
        with held.by(client) as lease:
            lease.report(Progress(phase="load", step=1))
            _wait_for_news(world, held, 1)

    def test_an_assignment_that_was_long_under_way_is_held_if_the_registry_still_says_so(
        self, client: Client, held: Held
    ) -> None:
        slow = Held(held.assignment, held.claimed_at - 2 * LEASE_S)
        with slow.by(client) as lease:
            assert not lease.lost
        given_since = Held(held.assignment.model_copy(update={"attempt": 2}), slow.claimed_at)
        with given_since.by(client) as lease:
            assert lease.lost

    def test_a_registry_that_answers_slowly_has_time_to_say_so(
        self, client: Client, proxy: FaultProxy, held: Held
    ) -> None:
        proxy.before = lambda _head: time.sleep(LEASE_S / 6)
        with Held(held.assignment, held.claimed_at - 2 * LEASE_S).by(client) as lease:
            assert not lease.lost

    def test_a_cancel_is_heard(self, world: World, client: Client, held: Held) -> None:
        with held.by(client) as lease:
            world.writer.jobs.cancel(held.job)
            wait_until(lambda: lease.cancelled, lambda: "it was not heard", timeout_s=60)
            assert not lease.lost

    def test_who_may_not_work_there_any_more_drops_the_job_at_once(
        self, world: World, base: BaseView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(world.services.claims, "_lease_s", 3600.0)
        grants = {"left": Role.WORKER, "other": Role.WORKER}
        token = world.services.tokens.create(name="of-two-namespaces", grants=grants, who=LOCAL)
        with closing(Client(world.url, token.secret, cache=tmp_path / "cache")) as client:
            held = _claimed(world, base, client, tmp_path, "left", "left/held")
            lease = held.by(client)
            lease.flush()
            assert not lease.lost
            world.services.tokens.revoke_namespace("left", who=LOCAL)
            # The registry may go by what it knew of a token for half a second.
            time.sleep(2 * TRUST_S)
            lease.flush()
            assert lease.lost
        world.services.jobs.cancel(held.job, who=world.principal(Role.WRITER))

    def test_a_registry_that_comes_back_in_time_costs_nothing(
        self, client: Client, proxy: FaultProxy, held: Held
    ) -> None:
        there = proxy.upstream
        with held.by(client) as lease:
            proxy.upstream = ("127.0.0.1", processes.free_port())
            lease.log("said while it was away")
            time.sleep(LEASE_S / 3)
            proxy.upstream = there
            time.sleep(LEASE_S)
            assert not lease.lost
        assert "said while it was away" in [event.message for event in client.jobs.events(held.job)]

    @pytest.mark.alone
    @pytest.mark.usefixtures("short_lease")
    @pytest.mark.parametrize("silence", ["refused", "hanging"])
    def test_while_it_stays_away_the_job_is_given_up_before_anybody_else_may_have_it(
        self, world: World, client: Client, proxy: FaultProxy, held: Held, silence: str
    ) -> None:
        let_go = Event()
        with apart(client) as own, held.by(own) as lease:
            if silence == "refused":
                proxy.upstream = ("127.0.0.1", processes.free_port())
            else:
                proxy.before = lambda _head: let_go.wait(30)
            wait_until(lambda: lease.lost, lambda: "it is still held", timeout_s=60)
            given_up_at = time.monotonic()
            # Whoever looks now finds the lease still running.
            world.services.claims.requeue_expired()
            found = world.writer.jobs.view(held.job)
            let_go.set()
        assert (found.state, found.attempt) == ("running", 1)
        assert given_up_at - held.claimed_at < SHORT_LEASE_S

    def test_an_attempt_that_is_stale_is_lost(self, world: World, client: Client, held: Held) -> None:
        with held.by(client) as lease:
            stale = held.assignment.model_copy(update={"attempt": held.assignment.attempt + 1})
            with Lease(client, stale, claimed_at=held.claimed_at) as other:
                wait_until(lambda: other.lost, lambda: "it is still held", timeout_s=60)
            assert not lease.lost

    def test_events_that_the_registry_refuses_cost_the_line_and_not_the_job(
        self, world: World, client: Client, held: Held
    ) -> None:
        with held.by(client) as lease:
            lease.log("with a NUL: \0")
            time.sleep(1)
            lease.log("without")
            time.sleep(LEASE_S)
            assert not lease.lost
        assert [event.message for event in client.jobs.events(held.job) if event.kind == "log"] == ["without"]

    def test_threads_that_wait_for_the_registry_do_not_keep_heartbeats_waiting(
        self, client: Client, proxy: FaultProxy, held: Held
    ) -> None:
        let_go = Event()

        def hang(head: Head) -> None:
            if "heartbeat" not in head.path:
                let_go.wait(60)

        proxy.before = hang
        with ThreadPoolExecutor(3) as pool, apart(client) as own:
            busy = [pool.submit(client.jobs.view, held.job) for _ in range(3)]
            with held.by(own) as lease:
                time.sleep(1.2 * LEASE_S)
                assert not any(call.done() for call in busy)
                assert not lease.lost
            let_go.set()


class TestStopReason:
    def test_reasons_and_what_they_allow(self, client: Client, held: Held) -> None:
        lease = held.by(client)
        shutdown = Shutdown(grace_s=30)
        assert StopSignal(lease, shutdown, grace_s=30, timeout_s=None).reason() is None
        late = StopSignal(lease, shutdown, grace_s=30, timeout_s=0.0)
        assert late.reason() is StopReason.TIMEOUT
        assert late.may_finish(29)
        assert not late.may_finish(30)
        shutdown.ask()
        stop_signal = StopSignal(lease, shutdown, grace_s=30, timeout_s=None)
        assert stop_signal.reason() is StopReason.DRAINING
        assert stop_signal.may_finish(1)
        # What is left then is for sending the checkpoint.
        shutdown._since = time.monotonic() - 21
        assert not stop_signal.may_finish(1)
        assert 8 < stop_signal.remaining_s(300) <= 9
        shutdown.ask()
        assert not stop_signal.may_finish(0)
        assert stop_signal.remaining_s(300) == 0
        lease.lose()
        assert stop_signal.reason() is StopReason.LOST


LORA = LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=["q_proj", "v_proj"])
REPORT = calls.training_report(LORA, metrics={"loss": 1.5})


class Sending:
    """A sender and the checkpoints that it is given."""

    def __init__(self, sender: CheckpointSender, lease: Lease, folder: Path) -> None:
        self.sender, self.lease, self.folder = sender, lease, folder

    def write(self, step: int) -> Path:
        """Write a checkpoint and hand it over."""
        folder = save_adapter(self.folder / f"step-{step:08d}", seed=step)
        (folder / "report.json").write_text(REPORT.model_dump_json())
        (folder / "optimizer.pt").write_bytes(bytes([step]) * 1000)
        self.sender.written(WrittenCheckpoint(step=step, total=100, folder=str(folder)))
        return folder


class TestCheckpoints:
    @pytest.fixture
    def sending(self, client: Client, held: Held, base: BaseView, tmp_path: Path) -> Iterator[Sending]:
        transfers = Transfers()
        with (
            held.by(client) as lease,
            AttemptInputs(
                client, transfers, folder=tmp_path / "attempt", namespace=None, settings=WorkerSettings("tested")
            ) as inputs,
        ):
            stop_signal = StopSignal(lease, Shutdown(grace_s=30), grace_s=30, timeout_s=None)
            attempt = Attempt(
                client,
                held.assignment,
                lease=lease,
                stop_signal=stop_signal,
                inputs=inputs,
                transfers=transfers,
                warm_child=WarmChild(warm=False),
                folder=tmp_path,
            )
            with CheckpointSender(attempt, base_fingerprint=base.fingerprint) as sender:
                yield Sending(sender, lease, tmp_path / "checkpoints")

    @pytest.fixture
    def stored(self, world: World, held: Held) -> Callable[[], list[int]]:
        def steps() -> list[int]:
            found = world.writer.call("GET", f"/jobs/{held.job}/checkpoints", list[CheckpointView])
            return [checkpoint.step for checkpoint in found]

        return steps

    def test_each_is_stored_and_all_but_the_last_are_removed_here(
        self, sending: Sending, stored: Callable[[], list[int]]
    ) -> None:
        first = sending.write(1)
        sending.sender.finish(60)
        second = sending.write(2)
        sending.sender.finish(60)
        assert stored() == [2, 1]
        assert not first.exists()
        assert second.exists()

    def test_the_newest_wins_where_sending_is_slow(
        self, sending: Sending, proxy: FaultProxy, stored: Callable[[], list[int]]
    ) -> None:
        let_go, begun = Event(), Event()

        def hang(head: Head) -> None:
            if "uploads" in head.path and not let_go.is_set():
                begun.set()
                let_go.wait(60)

        proxy.before = hang
        folders = [sending.write(1)]
        assert begun.wait(60)
        folders += [sending.write(step) for step in (2, 3, 4)]
        let_go.set()
        sending.sender.finish(60)
        assert stored() == [4, 1]
        assert [folder.exists() for folder in folders] == [False, False, False, True]

    def test_one_that_fails_is_sent_later(
        self, world: World, sending: Sending, proxy: FaultProxy, held: Held, stored: Callable[[], list[int]]
    ) -> None:
        there = proxy.upstream
        proxy.upstream = ("127.0.0.1", processes.free_port())
        sending.write(5)
        time.sleep(1)
        proxy.upstream = there
        sending.sender.finish(60)
        assert stored() == [5]
        sending.lease.flush()
        said = "\n".join(event.message or "" for event in world.writer.jobs.events(held.job) if event.kind == "log")
        assert "the checkpoint of step 5 could not be sent yet and will be tried again" in said
        assert "the checkpoint of step 5 of 100 is stored" in said

    def test_whoever_waits_waits_no_longer_than_he_wants(
        self, sending: Sending, proxy: FaultProxy, stored: Callable[[], list[int]]
    ) -> None:
        let_go = Event()
        proxy.before = lambda head: let_go.wait(60) if "uploads" in head.path else None
        sending.write(1)
        began = time.monotonic()
        sending.sender.finish(0.5)
        assert time.monotonic() - began < 30
        let_go.set()

    def test_of_an_attempt_that_no_longer_holds_the_job_none_is_stored(
        self, world: World, client: Client, sending: Sending, held: Held, stored: Callable[[], list[int]]
    ) -> None:
        # Another worker's attempt, as after a lease that ran out.
        release = Release(attempt=held.assignment.attempt)
        who = world.services.tokens.check(client.config.token)
        world.services.claims.release(job_id=held.job, release=release, who=who)
        sending.write(1)
        wait_until(lambda: sending.lease.lost, lambda: "it is still held", timeout_s=60)
        sending.sender.finish(60)
        assert stored() == []

    def test_what_can_never_be_sent_is_not_tried_again(self, sending: Sending, stored: Callable[[], list[int]]) -> None:
        folder = sending.folder / "broken"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("no report")
        sending.sender.written(WrittenCheckpoint(step=1, total=100, folder=str(folder)))
        sending.sender.finish(60)
        assert stored() == []
        sending.write(2)
        sending.sender.finish(60)
        assert stored() == [2]


class TestPoints:
    """A sender of points, of an attempt that this worker holds."""

    @pytest.fixture
    def lease(self, client: Client, held: Held) -> Iterator[Lease]:
        with held.by(client) as lease:
            yield lease

    @pytest.fixture
    def sender(self, client: Client, held: Held, lease: Lease, tmp_path: Path, limits: Limits) -> Iterator[PointSender]:
        limits(points, _EVERY_S=0.05, _AGAIN_S=0.1, _SHARE=1)
        attempt: Any = SimpleNamespace(client=client, assignment=held.assignment, lease=lease)
        with PointSender(attempt) as sender:
            yield sender

    @staticmethod
    def report(sender: PointSender, steps: range, *, seed: int = 0) -> list[Point]:
        """Report steps one by one, as a child does."""
        reported = points_of(steps, names=("loss", "lr"), seed=seed)
        for point in reported:
            sender.measured(PointChunk(after=point.step - 1, points=[point]))
        return reported

    def test_all_are_stored_at_the_end_in_few_requests(
        self, world: World, sender: PointSender, held: Held, proxy: FaultProxy
    ) -> None:
        sent: list[Head] = []
        proxy.before = lambda head: sent.append(head) if "series" in head.path else None
        reported = self.report(sender, range(1, 3_001))
        sender.finish(60)
        assert faults(world.writer.jobs.series(held.job), reported) == []
        assert 2 <= len(sent) < 300

    def test_a_child_that_begins_again_replaces_what_the_one_before_said(
        self, world: World, sender: PointSender, held: Held, proxy: FaultProxy
    ) -> None:
        self.report(sender, range(1, 40))
        sender.finish(60)
        there, proxy.upstream = proxy.upstream, ("127.0.0.1", processes.free_port())
        self.report(sender, range(40, 50))
        kept = points_of(range(1, 21), names=("loss", "lr"))
        sender.measured(PointChunk(after=0, points=kept))
        reported = [*kept, *self.report(sender, range(21, 30), seed=4)]
        proxy.upstream = there
        sender.finish(60)
        assert faults(world.writer.jobs.series(held.job), reported) == []

    def test_points_of_a_step_that_are_reported_again_replace_it(
        self, world: World, sender: PointSender, held: Held
    ) -> None:
        (first, second) = self.report(sender, range(1, 3))
        second = Point(step=2, values={**second.values, "eval_loss": 0.5})
        sender.measured(PointChunk(after=1, points=[second]))
        sender.finish(60)
        assert faults(world.writer.jobs.series(held.job), [first, second]) == []

    def test_a_registry_that_is_away_delays_nothing_and_gets_all_later(
        self, world: World, sender: PointSender, held: Held, proxy: FaultProxy
    ) -> None:
        there = proxy.upstream
        reported = self.report(sender, range(1, 10))
        sender.finish(60)
        proxy.upstream = ("127.0.0.1", processes.free_port())
        began = time.monotonic()
        reported += self.report(sender, range(10, 1_000))
        assert time.monotonic() - began < 5
        sender.finish(0.2)
        proxy.upstream = there
        sender.finish(60)
        assert faults(world.writer.jobs.series(held.job), reported) == []

    def test_an_answer_that_is_lost_changes_nothing(
        self, world: World, sender: PointSender, held: Held, proxy: FaultProxy
    ) -> None:
        proxy.plan = Script([Strike(Fault.SWALLOWED), None] * 4, method="POST")
        reported = self.report(sender, range(1, 200))
        sender.finish(60)
        assert faults(world.writer.jobs.series(held.job), reported) == []

    def test_a_registry_that_lost_points_gets_them_again(self, world: World, sender: PointSender, held: Held) -> None:
        reported = self.report(sender, range(1, 50))
        sender.finish(60)
        # As after it was restored from a backup.
        with world.services.db.write() as session:
            session.execute(delete(JobSeries).where(JobSeries.job_id == held.job))
        reported += self.report(sender, range(50, 52))
        sender.finish(60)
        assert faults(world.writer.jobs.series(held.job), reported) == []

    def test_without_room_it_is_said_once_and_points_come_when_there_is_some(
        self, world: World, sender: PointSender, lease: Lease, held: Held, limits: Limits
    ) -> None:
        limits(points, _NO_ROOM_S=0.05)
        used = world.admin.quotas.get("-").records_bytes
        world.admin.quotas.set("-", max_record_bytes=used + 100)
        try:
            reported = self.report(sender, range(1, 3_000))
            began = time.monotonic()
            sender.finish(60)
            assert time.monotonic() - began < 30
            time.sleep(0.5)
            assert faults(world.writer.jobs.series(held.job), reported) != []
        finally:
            world.admin.quotas.set("-")
        wait_until(lambda: faults(world.writer.jobs.series(held.job), reported) == [], lambda: "they don't come")
        lease.flush()
        said = [event.message or "" for event in world.writer.jobs.events(held.job) if event.kind == "log"]
        assert len([line for line in said if "the training continues without them" in line]) == 1

    def test_an_attempt_that_no_longer_holds_the_job_stops(
        self, world: World, client: Client, sender: PointSender, lease: Lease, held: Held
    ) -> None:
        who = world.services.tokens.check(client.config.token)
        world.services.claims.release(job_id=held.job, release=Release(attempt=held.assignment.attempt), who=who)
        self.report(sender, range(1, 10))
        wait_until(lambda: lease.lost, lambda: "it is still held", timeout_s=60)
        sender.finish(60)
        assert world.writer.jobs.series(held.job).series == {}


def test_a_version_does_not_wait_for_a_tracker_that_hangs(
    world: World, client: Client, held: Held, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    for module in (forwarding, reports):
        limits(module, END_S=50)
    limits(reports, _SOON_S=0.1)
    goes_on, forwarded = Event(), list[Any]()

    class Slow:
        def begin(self, training: Training, run: str | None) -> BegunRun:
            time.sleep(0.4)
            return BegunRun("run", continues=False)

        def log(self, points: Sequence[Point], at_s: float) -> None:
            goes_on.wait(60)
            forwarded.extend(point.step for point in points)

        def end(self, end: RunEnd | None) -> None:
            forwarded.append(end)

    monkeypatch.setattr(forwarding, "tracker", lambda name: Slow())
    request: Any = held.assignment.request
    tracked = request.model_copy(update={"spec": SPEC.model_copy(update={"report_to": "wandb"})})
    with held.by(client) as lease:
        stops = SimpleNamespace(remaining_s=float)
        attempt: Any = SimpleNamespace(client=client, assignment=held.assignment, lease=lease, stop_signal=stops)
        with Reports(attempt, tracked) as reporting:
            reporting.measured(PointChunk(after=0, points=points_of(range(1, 4))))
            began = time.monotonic()
            reporting.finish()
            assert time.monotonic() - began < 30
            lease.flush()
            # The version is there, and the next attempt at its job would know the run.
            lease.end()
            assert world.writer.jobs.view(held.job).runs["wandb"].run == "run"
            assert forwarded == []
            goes_on.set()
        assert forwarded == [1, 2, 3, "finished"]
        assert not lease.lost
    said = [event.message or "" for event in world.writer.jobs.events(held.job) if event.kind == "log"]
    assert said[-1] == "3 of 3 steps were not forwarded to wandb yet: it did not answer in time"
