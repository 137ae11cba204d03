"""Names belong to nobody: keys, workers and attempts are of one token, on both databases; two called `ci` share none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, func, select, update
from support.adapters import base_registration
from support.fixtures import Limits
from support.people import bare_http, training
from support.registries import World
from support.working import Held, line

from registry.access.models import Token
from registry.db.statements import append
from registry.db.types import db_epoch_s, utc_now
from registry.jobs import workers as rooms
from registry.jobs.models import Job, Worker
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import Conflict, NotFound, QuotaExceeded, StaleAttempt
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import AttemptView, JobSubmission, JobView
from sdk.schemas.work import Farewell, QueueCapacity, WorkerInfo, WorkerView


def info(name: str = "gpu-1", **changed: Any) -> WorkerInfo:
    return WorkerInfo(name=name, **{"device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**33, **changed})


def submit(client: Client, body: JobSubmission, key: str) -> JobView:
    return client.call("POST", "/jobs", JobView, body=body, headers={"Idempotency-Key": key})


def hello(client: Client, name: str = "gpu-1", **changed: Any) -> None:
    client.call("POST", "/workers/hello", None, body=info(name, **changed))


def workers(client: Client) -> dict[str, WorkerView]:
    return {worker.name: worker for worker in client.call("GET", "/workers", list[WorkerView])}


@dataclass
class Team:
    """A namespace with a dataset, whose tokens have the same names as everybody's."""

    world: World
    space: str
    #: A namespace of strangers.
    other: str
    writer: Client
    worker: Client
    data: str

    def body(self) -> JobSubmission:
        return training(f"{self.space}/a", self.data)

    def submit(self) -> JobView:
        return self.writer.call("POST", "/jobs", JobView, body=self.body())


@pytest.fixture
def team(people: World, acting: Callable[..., Client], space: str, rows: Path) -> Iterator[Team]:
    writer = acting(**{space: Role.WRITER})
    data = writer.datasets.add(rows, namespace=space).digest
    yield Team(people, space, f"not-{space}", writer, acting(**{space: Role.WORKER}), data)
    with people.services.db.write() as session:
        # No later test of this module finds this one's workers or jobs.
        session.execute(delete(Worker))
        unfinished = Job.state.in_(["queued", "running"])
        session.execute(update(Job).where(unfinished).values(state="failed", lease_until_s=None))


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


class TestKeysOfJobs:
    def test_another_tenants_token_of_the_same_name_finds_no_job(
        self, team: Team, acting: Callable[..., Client], key: str
    ) -> None:
        stranger = acting(**{team.other: Role.WRITER})
        job = submit(team.writer, team.body(), key)
        assert stranger.tokens.whoami().name == team.writer.tokens.whoami().name
        # The very same request, of which the stranger may see neither adapter nor dataset.
        with pytest.raises(NotFound):
            submit(stranger, team.body(), key)
        assert submit(team.writer, team.body(), key).id == job.id

    def test_nor_takes_the_key_away(self, team: Team, acting: Callable[..., Client], rows: Path, key: str) -> None:
        stranger = acting(**{team.other: Role.WRITER})
        taken = submit(
            stranger, training(f"{team.other}/a", stranger.datasets.add(rows, namespace=team.other).digest), key
        )
        job = submit(team.writer, team.body(), key)
        assert job.id != taken.id
        assert submit(team.writer, team.body(), key).id == job.id
        with pytest.raises(Conflict, match="used for another request"):
            submit(team.writer, training(f"{team.space}/b", team.data), key)

    def test_a_new_token_of_the_same_holder_has_keys_of_its_own(
        self, team: Team, acting: Callable[..., Client], key: str
    ) -> None:
        job = submit(team.writer, team.body(), key)
        tokens = team.world.services.tokens
        grants = {team.space: Role.WRITER}
        made = tokens.create(name="ci", grants=grants, replace=True, overlap_hours=1, who=SYSTEM)
        rotated = Client(team.world.url, made.secret, cache=team.world.folder / "cache")
        assert rotated.tokens.whoami().name == team.writer.tokens.whoami().name
        again = submit(rotated, team.body(), key)
        assert again.id != job.id
        # What the namespace has is the namespace's: the new token may do to the job what the old one could.
        assert rotated.jobs.cancel(job.id).state == "cancelled"
        rotated.close()

    def test_a_job_is_not_found_by_its_key_where_its_namespace_is_not_read_any_more(self, team: Team, key: str) -> None:
        services = team.world.services
        who = services.tokens.check(team.writer.config.token)
        job = services.jobs.submit(submission=team.body(), who=who, idempotency_key=key)
        elsewhere = replace(who, grants={"elsewhere": Role.WRITER})
        with pytest.raises(Exception, match="used for another request") as caught:
            services.jobs.submit(submission=team.body(), who=elsewhere, idempotency_key=key)
        assert job.id not in str(caught.value)
        assert services.jobs.submit(submission=team.body(), who=who, idempotency_key=key).id == job.id


class TestAttempts:
    def test_another_token_that_works_there_can_not_speak_for_an_attempt(
        self, team: Team, acting: Callable[..., Client], tmp_path: Path
    ) -> None:
        job = team.submit()
        held = Held.claim(team.worker, tmp_path)
        theirs = replace(held, client=acting(**{team.space: Role.WORKER}))
        admins = replace(held, client=acting(**{team.space: Role.ADMIN}))
        for stolen in (theirs, admins):
            for act in (
                lambda stolen: stolen.report(line("mine now")),
                lambda stolen: stolen.fail(),
                lambda stolen: stolen.release(),
                lambda stolen: stolen.checkpoint(1, 2),
                lambda stolen: stolen.complete(),
            ):
                with pytest.raises(StaleAttempt, match="with this token"):
                    act(stolen)
        found = team.writer.jobs.view(job.id)
        assert (found.state, found.attempt, found.failures, found.checkpoint_step) == ("running", 1, 0, None)
        assert [event.message for event in team.writer.jobs.events(job.id) if event.kind == "log"] == []
        held.report(line("mine"))
        assert held.complete().state == "succeeded"
        # Nor is a result handed out to whoever hands in the same attempt once more.
        with pytest.raises(StaleAttempt):
            theirs.complete()

    def test_its_key_gives_another_token_nothing(
        self, team: Team, acting: Callable[..., Client], tmp_path: Path, key: str
    ) -> None:
        team.submit()
        body = {"worker": info().model_dump(mode="json")}
        answers = []
        for client in (team.worker, acting(**{team.space: Role.WORKER}), team.worker):
            with bare_http(team.world.url, client.config.token or "") as http:
                answers.append(http.post("/api/v1/jobs/claim", json=body, headers={"Idempotency-Key": key}))
        assert [answer.status_code for answer in answers] == [200, 204, 200]
        assert answers[2].json()["attempt"] == answers[0].json()["attempt"] == 1

    def test_a_worker_whose_token_is_replaced_loses_its_attempt_and_the_job_nothing(
        self, team: Team, acting: Callable[..., Client], tmp_path: Path
    ) -> None:
        job = team.submit()
        held = Held.claim(team.worker, tmp_path, name="gpu-1")
        held.checkpoint(10, 20)
        tokens = team.world.services.tokens
        tokens.revoke(tokens.check(team.worker.config.token).token_id or "", who=SYSTEM)
        rotated = acting(**{team.space: Role.WORKER})
        with pytest.raises(StaleAttempt):
            replace(held, client=rotated).report()
        with team.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == job.id).values(lease_until_s=db_epoch_s() - 1))
        team.world.services.reconciler.sweep()
        again = Held.claim(rotated, tmp_path, name="gpu-1")
        assert (again.job, again.assignment.attempt) == (job.id, 2)
        assert again.assignment.checkpoint.step == 10
        assert again.complete().state == "succeeded"
        states = [row.state for row in team.writer.call("GET", f"/jobs/{job.id}/attempts", list[AttemptView])]
        assert states == ["lost", "succeeded"]


class TestWorkers:
    def test_two_of_one_name_are_two(self, team: Team, acting: Callable[..., Client]) -> None:
        hello(team.worker, version="1")
        stranger = acting(**{team.other: Role.WORKER})
        hello(stranger, version="2", cached_bases=["0" * 64], shared_paths=["/"])
        stranger.call("POST", "/workers/leave", None, body=Farewell(worker="gpu-1"))
        # What the stranger says is said of a worker of their own.
        found = workers(team.writer)["gpu-1"]
        assert (found.version, found.state, found.cached_bases) == ("1", "idle", [])
        team.worker.call("POST", "/workers/leave", None, body=Farewell(worker="gpu-1"))
        assert workers(team.writer)["gpu-1"].state == "draining"
        assert workers(stranger)["gpu-1"].version == "2"

    def test_one_that_works_for_a_stranger_is_not_busy_with_ours(
        self, team: Team, acting: Callable[..., Client], tmp_path: Path
    ) -> None:
        stranger = acting(**{team.other: Role.WORKER})
        hello(stranger)
        job = team.submit()
        Held.claim(team.worker, tmp_path, name="gpu-1")
        assert (workers(team.writer)["gpu-1"].state, workers(team.writer)["gpu-1"].job) == ("busy", job.id)
        assert (workers(stranger)["gpu-1"].state, workers(stranger)["gpu-1"].job) == ("idle", None)

    def test_they_are_seen_where_they_work(self, team: Team, acting: Callable[..., Client], admin: Client) -> None:
        stranger, everywhere = acting(**{team.other: Role.WORKER}), acting(**{"*": Role.WORKER})
        both = acting(**{team.other: Role.WORKER, team.space: Role.READER})
        hello(team.worker, "ours", cached_bases=["1" * 64])
        hello(stranger, "theirs", cached_bases=["2" * 64])
        hello(everywhere, "everybody's", cached_bases=["3" * 64])
        # One that only reads here works for others.
        hello(both, "guest")
        seen = workers(team.writer)
        assert set(seen) == {"ours", "everybody's"}
        assert (seen["ours"].cached_bases, seen["everybody's"].cached_bases) == (["1" * 64], [])
        assert set(workers(stranger)) == {"theirs", "everybody's", "guest"}
        assert set(workers(admin)) == {"ours", "theirs", "everybody's", "guest"}
        assert workers(admin)["everybody's"].cached_bases == ["3" * 64]
        queues = team.writer.call("GET", "/capacity", list[QueueCapacity])
        assert [(queue.workers, queue.idle) for queue in queues] == [(2, 2), (2, 2)]

    def test_why_a_job_waits_is_said_of_those_that_it_may_go_to(
        self, team: Team, acting: Callable[..., Client]
    ) -> None:
        job = team.submit()
        hello(acting(**{team.other: Role.WORKER}), "theirs")
        assert (team.writer.jobs.view(job.id).waits or "").startswith("no worker listens to the queue gpu")
        hello(team.worker, "ours")
        assert team.writer.jobs.view(job.id).waits == "a worker is about to take it"

    def test_a_strangers_worker_vouches_for_no_folder(
        self, team: Team, acting: Callable[..., Client], space: str
    ) -> None:
        folder = f"/models/{space}"
        shown = base_registration(space, location=f"file://{folder}")
        team.writer.bases.register(shown)
        request = TrainingRequest(adapter=f"{space}/a", base=BaseChoice(id=space), data=team.data)
        wanted = JobSubmission(request=request)
        for client, shares in ((acting(**{team.other: Role.WORKER}), False), (team.worker, True)):
            hello(client, shared_paths=["/models"])
            if shares:
                assert team.writer.call("POST", "/jobs", JobView, body=wanted).state == "queued"
            else:
                with pytest.raises(Exception, match="no worker shares"):
                    team.writer.call("POST", "/jobs", JobView, body=wanted)

    def test_nor_does_one_whose_token_is_over(self, team: Team, space: str) -> None:
        team.writer.bases.register(base_registration(space, location=f"file:///models/{space}"))
        request = TrainingRequest(adapter=f"{space}/a", base=BaseChoice(id=space), data=team.data)
        hello(team.worker, shared_paths=["/models"])
        assert "gpu-1" in workers(team.writer)
        assert team.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request)).state == "queued"
        with team.world.services.db.write() as session:
            of = Token.id == team.world.services.tokens.check(team.worker.config.token).token_id
            session.execute(update(Token).where(of).values(expires_at=utc_now() - timedelta(seconds=1)))
        with pytest.raises(Exception, match="no worker shares"):
            team.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))
        assert workers(team.writer) == {}

    def test_what_one_says_of_itself_is_bounded(self, team: Team) -> None:
        with bare_http(team.world.url, team.worker.config.token or "") as http:

            def greet(**changed: Any) -> httpx.Response:
                return http.post("/api/v1/workers/hello", json={**info().model_dump(mode="json"), **changed})

            for changed in (
                {"name": "n" * 201},
                {"name": "gpu\u202e1"},
                {"name": " gpu-1"},
                {"version": "v" * 41},
                {"cached_bases": ["0" * 64] * 257},
                {"shared_paths": ["/a"] * 65},
                {"shared_paths": ["/" + "a" * 1000]},
                {"queues": ["gpu", "cpu", "gpu"]},
                {"kinds": ["training"] * 33},
                {"memory_bytes": 2**63},
            ):
                assert greet(**changed).status_code == 422, changed
            most = {"name": "n" * 200, "cached_bases": ["0" * 64] * 256, "shared_paths": ["/a"] * 64}
            assert greet(**most).status_code == 204

    def test_a_token_has_so_many_and_then_the_one_silent_for_longest_is_forgotten(
        self, team: Team, limits: Limits
    ) -> None:
        limits(rooms, MOST_WORKERS=3)
        for number in range(3):
            hello(team.worker, f"w{number}")
        with pytest.raises(QuotaExceeded, match="a token of their own"):
            hello(team.worker, "w3")
        with team.world.services.db.write() as session:
            for name, minutes in (("w1", 5), ("w2", 4)):
                then = utc_now() - timedelta(minutes=minutes)
                session.execute(update(Worker).where(Worker.name == name).values(seen_at=then))
        hello(team.worker, "w3")
        assert set(workers(team.writer)) == {"w0", "w2", "w3"}

    def test_they_are_forgotten_after_a_week(self, team: Team) -> None:
        for name in ("left", "there"):
            hello(team.worker, name)
        services = team.world.services
        with services.db.write() as session:
            then = utc_now() - timedelta(days=7, minutes=1)
            session.execute(update(Worker).where(Worker.name == "left").values(seen_at=then))
        assert services.reconciler.sweep()["forgotten_workers"] == 1
        with services.db.read() as session:
            assert session.scalars(select(Worker.name)).all() == ["there"]


def test_a_strangers_many_workers_hide_nobody_elses(
    team: Team, acting: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    hello(team.worker, "zz")
    stranger = acting(**{team.other: Role.WORKER})
    owner = team.world.services.tokens.check(stranger.config.token).owner
    left_out = {"kinds", "fields"}
    rows = [{**info(f"a{number}").model_dump(exclude=left_out), "owner": owner, "knows": []} for number in range(1001)]
    with team.world.services.db.write() as session:
        append(session, Worker, *rows)
    assert set(workers(team.writer)) == {"zz"}
    with team.world.services.db.read() as session:
        assert session.scalar(select(func.count()).select_from(Worker)) == 1002
