"""Whose job is given out next, on both databases: no tenant stands in another's way."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from support.adapters import digest
from support.registries import World
from support.statements import Statement, plan_of, sent

from registry.db.statements import append
from registry.db.types import utc_now
from registry.jobs.fair_share import URGENT_ABOVE, WRITER_MOST
from registry.jobs.models import Job, Turn
from registry.principal import LOCAL, Principal, Role
from sdk.client import Client
from sdk.errors import NotAllowed
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.work import Assignment, ClaimRequest, Failure, WorkerInfo

_NUMBERS = itertools.count()


@dataclass
class House:
    """A registry with jobs of several tenants and workers of all."""

    world: World
    data: str
    request: dict[str, Any]
    base: str
    made: list[str] = field(default_factory=list)

    def add(self, space: str, *, count: int = 1, **values: Any) -> list[str]:
        """Jobs of a namespace that wait, the first the oldest; written as a server writes them."""
        rows = []
        for _ in range(count):
            number = next(_NUMBERS)
            row = {
                "id": f"{space}-{number}",
                "namespace": space,
                "kind": "training",
                "state": "queued",
                "subject": f"{space}/a",
                "request": {**self.request, "adapter": f"{space}/a"},
                "request_digest": "0" * 64,
                "created_by": space,
                "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
                **values,
            }
            rows.append(row)
        with self.world.services.db.write() as session:
            append(session, Job, *rows)
        return [row["id"] for row in rows]

    def claim(self, who: Principal = LOCAL, **about: Any) -> Assignment | None:
        given = {"name": "w", "device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**34, **about}
        return self.world.services.claims.claim(claim=ClaimRequest(worker=WorkerInfo(**given)), who=who)

    def take(self, count: int = 1, *, ending: bool = False, **about: Any) -> list[str]:
        """The namespaces of the next jobs, each of which ends before the next is asked for, or runs on."""
        found = []
        for _ in range(count):
            held = self.claim(**about)
            if held is None:
                break
            found.append(held.job.rpartition("-")[0])
            if ending:
                failure = Failure(attempt=held.attempt, reason="data", message="x")
                self.world.services.claims.fail(job_id=held.job, failure=failure, who=LOCAL)
        return found


@pytest.fixture
def house(people: World, rows: Path) -> Iterator[House]:
    data = people.writer.datasets.add(rows, namespace="-").digest
    request = TrainingRequest(
        adapter="x/a", base=BaseChoice(id="tiny", revision="0" * 40, fingerprint=digest("tiny: base")), data=data
    )
    yield House(people, data, request.model_dump(mode="json"), digest("tiny: base"))
    with people.services.db.write() as session:
        session.execute(update(Job).where(Job.state.in_(["queued", "running"])).values(state="failed"))
        session.execute(Turn.__table__.delete())


class TestTurns:
    def test_one_job_waits_for_no_flood(self, house: House) -> None:
        house.add("flood", count=1_000, priority=WRITER_MOST)
        assert house.take(3) == ["flood"] * 3
        house.add("small")
        assert house.take(2) == ["small", "flood"]

    def test_a_flood_of_short_jobs_delays_another_by_one_at_most(self, house: House) -> None:
        house.add("flood", count=20, priority=WRITER_MOST)
        house.add("small", count=3)
        taken = house.take(6, ending=True)
        assert sorted(taken) == ["flood"] * 3 + ["small"] * 3
        assert all(first != second for first, second in itertools.pairwise(taken))

    def test_among_equals_the_one_goes_first_that_was_served_longest_ago(self, house: House) -> None:
        for space in ("c", "a", "b"):
            house.add(space, count=4)
        first = house.take(3, ending=True)
        assert first == ["a", "b", "c"]
        assert house.take(9, ending=True) == first * 3

    def test_whoever_runs_less_goes_first(self, house: House) -> None:
        house.add("busy", count=3, state="running", attempt=1, lease_until_s=4e9)
        house.add("busy", count=5)
        house.add("new", count=5)
        assert house.take(5) == ["new", "new", "new", "busy", "new"]

    def test_what_runs_in_another_queue_is_of_no_account(self, house: House) -> None:
        house.add("a", count=5, state="running", attempt=1, lease_until_s=4e9, queue="cpu")
        house.add("a", count=3)
        house.add("b", count=3)
        assert house.take(4) == ["a", "b", "a", "b"]

    def test_priority_orders_the_jobs_of_one_namespace(self, house: House) -> None:
        low, high = house.add("a") + house.add("a", priority=WRITER_MOST)
        house.add("b", count=2)
        given = [held.job for _ in range(4) if (held := house.claim()) is not None]
        assert given.index(high) < given.index(low)
        assert [job.rpartition("-")[0] for job in given] == ["a", "b", "a", "b"]

    def test_urgent_ones_go_before_all_and_background_ones_after_all(self, house: House) -> None:
        house.add("a", count=2, priority=-1)
        house.add("b", count=2)
        house.add("c", count=2, priority=URGENT_ABOVE + 1)
        assert house.take(6) == ["c", "c", "b", "b", "a", "a"]

    def test_a_job_that_fits_nobody_holds_nobody_back(self, house: House) -> None:
        house.add("a", count=50, needs_device="cuda", priority=WRITER_MOST)
        (small,) = house.add("a")
        held = house.claim()
        assert held.job == small

    def test_a_worker_of_one_namespace_is_given_its_jobs_only(self, house: House) -> None:
        house.add("a", count=2)
        house.add("b", count=2)
        mine = Principal("w", {"b": Role.WORKER})
        assert [house.claim(mine) is not None for _ in range(3)] == [True, True, False]

    def test_workers_that_ask_at_once_get_all_there_is(self, house: House) -> None:
        jobs = [job for space in "abc" for n in range(8) for job in house.add(space, priority=n % 3 - 1)]
        with ThreadPoolExecutor(8) as pool:
            given = list(pool.map(lambda n: house.claim(name=f"w{n}"), range(len(jobs))))
        assert sorted(held.job for held in given if held is not None) == sorted(jobs)


class TestGone:
    """Jobs that can't be given out any more, since what they need was taken away."""

    @pytest.fixture
    def gone(self, house: House) -> dict[str, Any]:
        return {"request": {**house.request, "adapter": "culprit/a", "data": "e" * 64}}

    def states(self, house: House, space: str) -> Counter[tuple[str, str | None]]:
        query = select(Job.state, Job.reason).where(Job.namespace == space)
        with house.world.services.db.read() as session:
            return Counter((state, reason) for state, reason in session.execute(query))

    def test_many_keep_nobody_else_waiting(self, house: House, gone: dict[str, Any]) -> None:
        house.add("culprit", count=100, **gone)
        house.add("small", count=2)
        assert house.take(1) == ["small"]
        # What one transaction did, of which others wait for the end, was little.
        assert self.states(house, "culprit")["failed", "gone"] == 8
        assert house.take(1) == ["small"]
        assert self.states(house, "culprit")["failed", "gone"] == 16

    def test_many_of_many_tenants_are_ended_by_a_few_claims(self, house: House, gone: dict[str, Any]) -> None:
        spaces = [f"gone-{number}" for number in range(10)]
        for space in spaces:
            house.add(space, count=8, **gone)
        assert house.take(1) == []
        assert sum((self.states(house, space) for space in spaces), Counter[Any]())["failed", "gone"] == 32
        for _ in range(3):
            house.take(1)
        assert sum((self.states(house, space) for space in spaces), Counter[Any]()) == {("failed", "gone"): 80}

    def test_a_few_are_passed_by_in_one_claim(self, house: House, gone: dict[str, Any]) -> None:
        house.add("mixed", count=7, **gone)
        house.add("mixed")
        assert house.take(1) == ["mixed"]
        assert self.states(house, "mixed") == {("failed", "gone"): 7, ("running", None): 1}


class TestPlaces:
    def test_how_many_go_first_is_how_many_do(self, house: House) -> None:
        dice = random.Random(5)
        for space in ("a", "b", "c", "d"):
            house.add(space, count=dice.randrange(4), state="running", attempt=1, lease_until_s=4e9)
        for _ in range(40):
            house.add(dice.choice("abcd"), priority=dice.choice([-5, 0, 0, 3, 10, 60]))
        views = house.world.services.jobs.list(state="queued", cursor=None, limit=99, who=LOCAL).items
        said = sorted((view.ahead, view.id) for view in views if view.ahead is not None)
        given = []
        while (held := house.claim()) is not None:
            given.append(held.job)
        assert [job for _, job in said] == given
        assert [place for place, _ in said] == list(range(40))

    def test_the_one_of_a_small_tenant_knows_that_it_is_next(self, house: House) -> None:
        house.add("flood", count=2_000)
        house.take(1)
        (small,) = house.add("small")
        view = house.world.services.jobs.get(small, who=LOCAL)
        assert view.ahead == 0
        last = house.add("flood")[0]
        assert house.world.services.jobs.get(last, who=LOCAL).ahead is None


class TestPriorities:
    def submit(self, house: House, client: Client, space: str, priority: int) -> JobView:
        request = TrainingRequest.model_validate({**house.request, "adapter": f"{space}/a"})
        data = client.datasets.add(house.world.folder / "rows.jsonl", namespace=space).digest
        body = JobSubmission(request=request.model_copy(update={"data": data}), priority=priority)
        return client.call("POST", "/jobs", JobView, body=body)

    @pytest.fixture(autouse=True)
    def _rows(self, house: House) -> None:
        (house.world.folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')

    @pytest.mark.parametrize(
        ("role", "most"), [(Role.WRITER, WRITER_MOST), (Role.PROMOTER, URGENT_ABOVE), (Role.ADMIN, URGENT_ABOVE)]
    )
    def test_each_role_has_a_highest(
        self, house: House, acting: Callable[..., Client], space: str, role: Role, most: int
    ) -> None:
        client = acting(**{space: role})
        assert self.submit(house, client, space, most).priority == most
        assert self.submit(house, client, space, -100).priority == -100
        with pytest.raises(NotAllowed, match=f"{most} is the highest priority that this token may give") as caught:
            self.submit(house, client, space, most + 1)
        assert caught.value.param == "priority"

    def test_an_admin_of_all_may_give_any(self, house: House, admin: Client, space: str) -> None:
        assert self.submit(house, admin, space, 100).priority == 100

    def test_who_tries_again_gives_no_higher_one_than_they_may(
        self, house: House, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        job = self.submit(house, admin, space, 90)
        admin.jobs.cancel(job.id)
        assert acting(**{space: Role.WRITER}).jobs.retry(job.id).view.priority == WRITER_MOST


def read_rows(house: House, statement: Statement) -> float:
    """How many rows of jobs PostgreSQL reads for a statement."""
    with house.world.services.db.engine.connect() as connection:
        explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}"
        plan = connection.exec_driver_sql(explained, statement.parameters).scalar_one()
        connection.rollback()

    def rows_of(node: dict[str, Any]) -> float:
        thrown_away = node.get("Rows Removed by Filter", 0)
        own = (node["Actual Rows"] + thrown_away) * node["Actual Loops"] if node.get("Relation Name") == "jobs" else 0
        return own + sum(rows_of(below) for below in node.get("Plans", []))

    return rows_of(plan[0]["Plan"])


@pytest.mark.parametrize("analysed", ["empty", "full"])
def test_a_claim_reads_no_more_of_a_long_queue(house: House, analysed: str) -> None:
    db = house.world.services.db
    house.add("old", count=3_000, state="succeeded", finished_at=utc_now())
    waiting = 5_000
    if analysed == "full":
        house.add("flood", count=waiting)
    if db.engine.dialect.name == "postgresql":
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE jobs"))
    if analysed == "empty":
        # The database expects that hardly any job waits.
        house.add("flood", count=waiting)
    for number in range(20):
        house.add(f"small-{number}")
    with sent(db) as seen:
        assert house.claim() is not None
    reads = [one for one in seen if one.sql.startswith(("SELECT", "WITH")) and "jobs" in one.sql]
    assert len(reads) >= 2
    if db.engine.dialect.name == "postgresql":
        # The oldest 200 of one namespace are looked at for one whose base is cached.
        assert sum(read_rows(house, one) for one in reads) < 1_000, [one.sql for one in reads]
    else:
        for one in reads:
            plan = "\n".join(plan_of(db, one))
            assert "SCAN jobs" not in plan, f"{one.sql}\n{plan}"
