"""What monitoring reads: the same numbers from every server process, behind a token, and of nobody's names."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, text, update
from support.adapters import SPEC
from support.people import bare_http
from support.registries import World
from support.working import Held

from registry.db.counters import BUCKETS_S, Counter, count, count_duration
from registry.db.types import utc_now
from registry.errors import Conflict
from registry.jobs.models import Job as JobRow
from registry.jobs.models import Worker
from registry.jobs.reconcile import note_sweep
from registry.monitoring.models import ServerProcess
from registry.monitoring.processes import ProcessFigures
from registry.observed import OBSERVED
from registry.principal import Role
from sdk.client import Client
from sdk.objects import Job

ROOT = Path(__file__).parents[2]
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(exposition: str) -> Numbers:
    """Every number by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def number(numbers: Numbers, name: str, **labels: str) -> float:
    return numbers.get((f"adapterctl_{name}", frozenset(labels.items())), 0.0)


@pytest.fixture
def numbers(people: World) -> Callable[[], Numbers]:
    """Return a function that scrapes."""

    def scrape() -> Numbers:
        with bare_http(people.url, people.token(Role.READER)) as http:
            return parsed(http.get("/metrics").raise_for_status().text)

    return scrape


@pytest.fixture
def writer(people: World, acting: Callable[..., Client], space: str) -> Iterator[Client]:
    yield acting(**{space: Role.WRITER})
    with people.services.db.write() as session:
        session.execute(delete(Worker))
        session.execute(update(JobRow).where(JobRow.state.in_(["queued", "running"])).values(state="failed"))


@pytest.fixture
def submit(writer: Client, space: str, rows: Path) -> Callable[[], Job]:
    asked = SPEC.model_dump(exclude_unset=True)
    return lambda: writer.submit_training(f"{space}/a", base="tiny", data=rows, **asked)


@pytest.fixture
def hold(acting: Callable[..., Client], space: str, tmp_path: Path) -> Callable[..., Held]:
    return partial(Held.claim, acting(**{space: Role.WORKER}), tmp_path)


class TestDoor:
    def test_a_token_opens_it_whatever_its_role(self, people: World, space: str, acting: Callable[..., Client]) -> None:
        for role in Role:
            with bare_http(people.url, acting(**{space: role}).config.token or "") as http:
                answer = http.get("/metrics")
                assert answer.status_code == 200
                assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


class TestNumbers:
    def test_what_waits_runs_and_has_ended(
        self, people: World, submit: Callable[[], Job], hold: Callable[..., Held], numbers: Callable[[], Numbers]
    ) -> None:
        before = numbers()
        jobs = [submit() for _ in range(4)]
        with people.services.db.write() as session:
            session.execute(
                update(JobRow).where(JobRow.id == jobs[0].id).values(created_at=utc_now() - timedelta(hours=2))
            )
        waiting = numbers()
        assert number(waiting, "jobs_queued", queue="gpu", kind="training") == 4
        assert number(waiting, "jobs_queued", queue="cpu", kind="merge") == 0
        assert 7200 <= number(waiting, "jobs_oldest_queued_seconds", queue="gpu") < 9000
        assert number(waiting, "jobs_oldest_queued_seconds", queue="cpu") == 0

        hold().fail("data")
        hold().complete()
        hold().fail("oom")
        hold(name="w2")
        next(job for job in jobs if job.state == "queued").cancel()
        after = numbers()

        def grown(name: str, **labels: str) -> float:
            return number(after, name, **labels) - number(before, name, **labels)

        assert number(after, "jobs_queued", queue="gpu", kind="training") == 0
        assert number(after, "jobs_running", queue="gpu") == 1
        assert grown("job_attempts_total", kind="training") == 4
        assert grown("jobs_finished_total", kind="training", state="failed", reason="data") == 1
        assert grown("jobs_finished_total", kind="training", state="succeeded", reason="") == 1
        assert grown("jobs_finished_total", kind="training", state="cancelled", reason="cancelled") == 1
        # That attempt is tried again: no job has ended so.
        assert grown("jobs_finished_total", kind="training", state="failed", reason="oom") == 0
        assert number(after, "workers", state="busy") == 1
        assert number(after, "workers", state="idle") == 1
        assert number(after, "workers", state="silent") == 0

    def test_a_lost_lease_is_counted(
        self, people: World, submit: Callable[[], Job], hold: Callable[..., Held], numbers: Callable[[], Numbers]
    ) -> None:
        before = number(numbers(), "lease_losses_total")
        submit()
        held = hold()
        with people.services.db.write() as session:
            session.execute(update(JobRow).where(JobRow.id == held.job).values(lease_until_s=1.0))
            session.execute(update(Worker).values(seen_at=utc_now() - timedelta(hours=1)))
        people.services.claims.requeue_expired()
        found = numbers()
        assert number(found, "lease_losses_total") == before + 1
        assert number(found, "workers", state="silent") == 1

    def test_reasons_that_nobody_knows_are_counted_as_one(
        self, submit: Callable[[], Job], hold: Callable[..., Held], numbers: Callable[[], Numbers]
    ) -> None:
        before = numbers()
        for reason in ("made_up", "made_up_too"):
            submit()
            assert hold().fail(reason).reason == reason
        after = numbers()
        told = {"kind": "training", "state": "failed", "reason": "other"}
        assert number(after, "jobs_finished_total", **told) - number(before, "jobs_finished_total", **told) == 2
        assert not any("made_up" in value for _, labels in after for _, value in labels)

    def test_every_server_process_says_the_same(
        self, people: World, submit: Callable[[], Job], numbers: Callable[[], Numbers]
    ) -> None:
        submit()
        ours, theirs = numbers(), parsed(people.impatient.metrics.exposition().decode())
        for found in (ours, theirs):
            found.pop(("adapterctl_jobs_oldest_queued_seconds", frozenset({("queue", "gpu")})))
        assert ours == theirs

    def test_nobody_is_named(
        self, people: World, writer: Client, hold: Callable[..., Held], space: str, rows: Path
    ) -> None:
        job = writer.submit_training(f"{space}/secret-name", base="tiny", data=rows, rank=2)
        hold(name="node-of-ada")
        said = people.services.metrics.exposition().decode()
        assert "adapterctl_jobs_running" in said
        for name in (job.id, space, "secret-name", "node-of-ada", "rows.jsonl"):
            assert name not in said


class TestCounters:
    @pytest.fixture(autouse=True)
    def _empty(self, people: World) -> None:
        with people.services.db.write() as session:
            session.execute(delete(Counter))

    def test_many_at_once_lose_nothing(self, people: World) -> None:
        def add(seed: int) -> None:
            for turn in range(25):
                with people.services.db.write() as session:
                    # In any order: nobody waits for one who waits for them.
                    for kind in ("training", "merge") if (seed + turn) % 2 else ("merge", "training"):
                        count(session, "attempts", kind=kind)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(8)))
        found = parsed(people.services.metrics.exposition().decode())
        assert number(found, "job_attempts_total", kind="training") == 200
        assert number(found, "job_attempts_total", kind="merge") == 200

    def test_what_is_undone_is_not_counted(self, people: World) -> None:
        def undone() -> None:
            with people.services.db.write() as session:
                count(session, "lease_losses")
                raise Conflict("somebody else was first; look again")

        with pytest.raises(Conflict):
            undone()
        with people.services.db.write() as session:
            count(session, "lease_losses", 2)
            count(session, "lease_losses")
        assert number(parsed(people.services.metrics.exposition().decode()), "lease_losses_total") == 3

    def test_durations_are_a_histogram(self, people: World) -> None:
        with people.services.db.write() as session:
            for seconds in (0.5, 5, 5.1, 100_000):
                count_duration(session, "training", seconds)
        found = parsed(people.services.metrics.exposition().decode())
        within = [number(found, "job_duration_seconds_bucket", kind="training", le=str(end)) for end in BUCKETS_S]
        assert within == [2, 3, *[3] * (len(BUCKETS_S) - 2)]
        assert number(found, "job_duration_seconds_bucket", kind="training", le="+Inf") == 4
        assert number(found, "job_duration_seconds_count", kind="training") == 4
        assert number(found, "job_duration_seconds_sum", kind="training") == pytest.approx(100_010.6)

    def test_jobs_that_have_ended_are_not_gone_through(self, people: World) -> None:
        with people.services.db.read() as session:
            sqlite = session.get_bind().dialect.name == "sqlite"
            if not sqlite:
                # So few rows it would rather read all of.
                session.execute(text("SET LOCAL enable_seqscan = off"))
            for query in (
                "SELECT queue, kind, count(*), min(created_at) FROM jobs WHERE state = 'queued' GROUP BY queue, kind",
                "SELECT queue, count(*) FROM jobs WHERE state = 'running' GROUP BY queue",
            ):
                explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
                plan = "\n".join(str(row) for row in session.execute(text(f"{explain} {query}")))
                assert "ix_jobs_next" in plan or "ix_jobs_state_priority_created_at" in plan
                assert "SCAN jobs" not in plan
                assert "Seq Scan" not in plan


class TestProcesses:
    """What server processes report of themselves."""

    @pytest.fixture
    def reported(self, people: World, numbers: Callable[[], Numbers]) -> Callable[[], Numbers]:
        """Return a function that lets this process report, and scrapes."""

        async def figures() -> ProcessFigures:
            return people.services.processes.figures()

        def report() -> Numbers:
            people.services.processes.report(asyncio.run(figures()))
            return numbers()

        return report

    def test_requests_are_counted_and_timed_by_route_and_never_by_path(
        self, people: World, reported: Callable[[], Numbers]
    ) -> None:
        with bare_http(people.url, people.token(Role.READER)) as http:
            before = reported()
            for name in ("a-secret", "another"):
                assert http.get("/api/v1/resolve", params={"ref": f"{name}@latest"}).status_code == 404
            assert http.get("/api/v1/no/such/place").status_code == 404
            assert http.request("BREW", "/api/v1/adapters").status_code >= 400
        after = reported()
        grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
        labels = {"method": "GET", "process": process_name()}
        route = "/api/v1/resolve"
        routes = {label["route"] for label in (dict(pairs) for _, pairs in after) if "route" in label}
        assert not any("secret" in route or "no/such" in route for route in routes)
        assert {dict(pairs).get("method") for _, pairs in after} <= {
            None,
            "GET",
            "POST",
            "PUT",
            "DELETE",
            "PATCH",
            "other",
        }
        assert number(grown, "http_requests_total", route=route, status="404", **labels) == 2
        assert number(grown, "http_request_duration_seconds_count", route=route, **labels) == 2
        assert number(grown, "http_request_duration_seconds_bucket", route=route, le="+Inf", **labels) == 2
        assert number(grown, "http_requests_total", route="/api/v1/", status="404", **labels) == 1

    def test_pools_storage_and_the_process_itself_are_shown(
        self, people: World, writer: Client, space: str, rows: Path, reported: Callable[[], Numbers]
    ) -> None:
        before = reported()
        writer.datasets.add(rows, name="metric-rows")
        after = reported()
        labels = {"process": process_name()}
        assert number(after, "pool_places", pool="answering", **labels) == 10
        assert number(after, "pool_running", pool="answering", **labels) == 0
        assert number(after, "pool_places", pool="connections to the database", **labels) >= 1
        added = number(after, "storage_used_bytes", what="datasets") - number(
            before, "storage_used_bytes", what="datasets"
        )
        assert added == rows.stat().st_size
        assert after["process_cpu_seconds_total", frozenset(labels.items())] > 0
        assert after["process_resident_memory_bytes", frozenset(labels.items())] > 1e7

    def test_a_process_that_has_ended_is_forgotten(self, people: World, reported: Callable[[], Numbers]) -> None:
        reported()
        with people.services.db.write() as session:
            for name, ago_s in (("ended:1", 61.0), ("long-ended:1", 3601.0), ("running:1", 20.0)):
                row = session.get_one(ServerProcess, process_name())
                session.add(ServerProcess(name=name, seen_at_s=row.seen_at_s - ago_s, figures=row.figures))
        shown = {dict(pairs).get("process") for _, pairs in reported()}
        assert shown == {None, process_name(), "running:1"}
        with people.services.db.write() as session:
            assert session.get(ServerProcess, "long-ended:1") is None
            session.execute(delete(ServerProcess))


def process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


#: What `promtool check metrics` finds fault with in the parts of a name: types, units that are no base units, abbreviations.
_NO_PARTS = {
    *("counter", "gauge", "histogram", "summary"),
    *("milliseconds", "microseconds", "minutes", "hours", "days", "bits", "kilobytes", "megabytes", "percent", "rate"),
    *("s", "ms", "us", "ns", "sec", "secs", "m", "min", "h", "d", "b", "kb", "mb", "gb", "tb"),
}


def test_names_keep_the_conventions_of_prometheus(people: World, numbers: Callable[[], Numbers]) -> None:
    numbers()
    OBSERVED.time("storage_call_duration_seconds", 0.1, outcome="answered")

    async def figures() -> ProcessFigures:
        return people.services.processes.figures()

    people.services.processes.report(asyncio.run(figures()))
    exposed = people.services.metrics.exposition().decode()
    described = re.findall(r"^# (HELP|TYPE) (\S+) (.*)$", exposed, re.MULTILINE)
    assert len(described) == exposed.count("\n# ") + 1 == len({each[:2] for each in described})
    assert all(each[2].strip() for each in described)
    kinds = {name: text for what, name, text in described if what == "TYPE"}
    assert len(kinds) > 15
    for name, kind in kinds.items():
        assert re.fullmatch(r"(adapterctl|process)(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_bucket", "_count", "_sum", "_created")), name
        assert not _NO_PARTS & {*name.split("_")}, name
    for family in text_string_to_metric_families(exposed):
        assert family.samples or family.name.startswith("adapterctl_"), family.name
        for sample in family.samples:
            assert sample.name.startswith(family.name), f"{sample.name} has no TYPE"
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels), sample
            assert ("le" in sample.labels) == sample.name.endswith("_bucket"), sample


#: A metric with the labels that choose some of its series, or the labels of an aggregation; words of the language aside.
_SELECTED = re.compile(r"\b((?:adapterctl|process)_[a-z_]+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")


def test_every_panel_of_the_dashboard_shows_what_there_is(
    people: World, submit: Callable[[], Job], hold: Callable[..., Held], numbers: Callable[[], Numbers]
) -> None:
    submit()
    hold().complete()
    OBSERVED.time("storage_call_duration_seconds", 0.1, outcome="answered")

    async def figures() -> ProcessFigures:
        return people.services.processes.figures()

    numbers()
    people.services.processes.report(asyncio.run(figures()))
    with people.services.db.write() as session:
        note_sweep(session, "this:1", led=False, alone=False)
    series: dict[str, set[str]] = {}
    for name, pairs in numbers():
        series.setdefault(name, set()).update(dict(pairs))
    dashboard = json.loads((ROOT / "deploy/grafana/registry.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 20
    for expression in expressions:
        known: set[str] = set()
        for name, selected in _SELECTED.findall(expression):
            assert name in series, f"{expression}: there is no {name}"
            known |= series[name]
            assert set(re.findall(r"(\w+)\s*[=!]", selected)) <= series[name], expression
        for labels in _GROUPED.findall(expression):
            assert {label.strip() for label in labels.split(",")} <= known, expression
    # And nothing that is exposed is missing from it, but for what the panels say in another form.
    shown = {name for expression in expressions for name, _ in _SELECTED.findall(expression)}
    left_out = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in set(series) - shown
    }
    stems = {name.removesuffix("_bucket").removesuffix("_count") for name in shown}
    assert left_out - stems == {
        "adapterctl_reconciler_leader_since_seconds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }
