"""Rows that another release wrote, or that this one can't read: nobody is stopped by one, and what can be read is shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import JSON, select, update
from support import registries
from support.recorded_rows import rows
from support.registries import World
from support.schemas import ASSETS, NOW, kept_revisions, load_past

from registry.catalog.models import Version
from registry.db.database import Database
from registry.db.statements import append
from registry.db.stored_json import read_stored
from registry.db.types import Model
from registry.errors import Unreadable
from registry.jobs.models import Attempt, Job
from registry.principal import LOCAL
from sdk.errors import AdapterctlError
from sdk.schemas.catalog import VersionView
from sdk.schemas.combination import CombineRequest
from sdk.schemas.events import Event, Progress
from sdk.schemas.job_requests import EvaluationRequest, MergeRequest, PreviewJobRequest, TrainingRequest
from sdk.schemas.jobs import JobState, JobView
from sdk.schemas.lineage import Lineage
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.wire import Wire, read, read_json
from sdk.schemas.work import ClaimRequest, WorkerInfo

KINDS: dict[str, type[Wire]] = {
    "training": TrainingRequest,
    "evaluation": EvaluationRequest,
    "merge": MergeRequest,
    "preview": PreviewJobRequest,
    "combine": CombineRequest,
    "progress": Progress,
    "report": TrainingReport,
}
WORKER = WorkerInfo(name="node-1", device="cuda", memory_bytes=2**40, free_memory_bytes=2**40)

#: Members of enumerations that are stored.
MEMBERS = {
    "nf4",
    "bitsandbytes",
    "bfloat16",
    "none",
    "steps",
    "qlora",
    "attention-only",
    "completion",
    "continued-from",
}


def with_unknown_fields(value: Any) -> Any:
    """A newer release has more fields, on every level."""
    if isinstance(value, dict):
        return {**{key: with_unknown_fields(each) for key, each in value.items()}, "of_tomorrow": {"deep": [1]}}
    return [with_unknown_fields(each) for each in value] if isinstance(value, list) else value


def with_unknown_members(value: Any) -> Any:
    """A newer release knows more members of an enumeration."""
    if isinstance(value, dict):
        return {key: with_unknown_members(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_unknown_members(each) for each in value]
    return "of_tomorrow" if value in MEMBERS else value


def with_other_values(value: Any) -> Any:
    """A validator of this release is stricter than the writer's was: no value is one that it accepts."""
    if isinstance(value, dict):
        return {key: with_other_values(each) for key, each in value.items()}
    return [{"odd": -1.5}]


def of_another_form(_: Any) -> Any:
    return ["of_tomorrow"]


CHANGES: list[Callable[[Any], Any]] = [
    with_unknown_fields,
    with_unknown_members,
    with_other_values,
    of_another_form,
]


def change_every_row(db: Database, change: Callable[[Any], Any]) -> None:
    """Rewrite what is stored as JSON, in every table but the audit trail, which nobody rewrites."""
    for table in Model.metadata.sorted_tables:
        if table.name == "audit_entries":
            continue
        columns = [column for column in table.columns if isinstance(column.type, JSON)]
        with db.engine.begin() as connection:
            for row in connection.execute(select(table)).mappings().all() if columns else []:
                changed = {column.key: change(row[column.name]) for column in columns if row[column.name] is not None}
                if changed:
                    key = [column == row[column.name] for column in table.primary_key]
                    connection.execute(update(table).where(*key).values(changed))


@pytest.fixture(params=[NOW, *kept_revisions()])
def past(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A registry of this release, and those of past ones, upgraded."""
    url = f"sqlite:///{tmp_path / 'past.sqlite3'}"
    with closing(Database(url)) as db:
        load_past(db, request.param)
    with registries.embedded(tmp_path / "home", database_url=url) as world:
        yield world


def questions(world: World) -> list[str]:
    """Every GET there is, of everything that is there."""
    with world.services.db.read() as session:
        jobs = list(session.scalars(select(Job.id)))
        versions = session.scalars(select(Version)).all()
        refs = [f"{version.adapter.name}@sha256:{version.digest}" for version in versions]
        names = sorted({version.adapter.name for version in versions})
        digests = {version.digest for version in versions}
    paths = ["adapters", "aliases/protected", "audit", "bases", "base?name=tiny", "capacity", "datasets", "evaluations"]
    paths += ["jobs", "quotas", "search", "tokens", "whoami", "workers", "lineage?of=base:tiny"]
    paths += [f"jobs/{job}{rest}" for job in jobs for rest in ("", "/attempts", "/checkpoints", "/events")]
    paths += [f"jobs/{job}/events/stream?for_s=0.001" for job in jobs]
    paths += [f"{route}={name}" for name in names for route in ("aliases?adapter", "aliases/history?adapter")]
    paths += [f"versions?archived=true&adapter={name}" for name in names]
    paths += [f"retention?adapter={name}" for name in names]
    paths += [f"{route}={ref}" for ref in refs for route in ("resolve?ref", "lineage?of")]
    return [f"/api/v1/{path}" for path in paths] + [
        f"/api/v1/manifests/{digest}/{rest}" for digest in digests for rest in ("files", "signatures")
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_rows_of_each_release_are_shown_however_they_were_changed(past: World, change: Callable[[Any], Any]) -> None:
    change_every_row(past.services.db, change)
    # What `resolve` answers was written by that release, too.
    for path in questions(past):
        answer = past.http.get(path)
        assert answer.status_code in (200, 404, 409), (path, answer.text)
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "unreadable", (path, answer.text)
    assert past.http.get("/metrics").status_code == 200
    # The client understands what it is told.
    client = past.writer
    jobs = list(client.jobs())
    assert len(jobs) == len({job.id for job in jobs}) > 0
    for job in jobs:
        job.poll_events()
        job.attempts()
        job.checkpoints()
    client.evaluations()
    list(client.search())
    client.workers()
    client.lineage("base:tiny")


@pytest.mark.parametrize("change", CHANGES)
def test_rows_of_each_release_stop_no_worker(past: World, change: Callable[[Any], Any]) -> None:
    change_every_row(past.services.db, change)
    services = past.services
    before = {job.id for job in services.jobs.list(state="queued", cursor=None, limit=99, who=LOCAL).items}
    held = []
    while (given := services.claims.claim(claim=ClaimRequest(worker=WORKER), who=LOCAL)) is not None:
        held.append(given.job)
    for job in before - set(held):
        view = services.jobs.get(job, who=LOCAL)
        assert (view.state, view.reason) in (("failed", "unreadable"), ("failed", "gone")), view
    services.reconciler.sweep()
    if change is with_unknown_fields:
        assert set(held) == before


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A registry of this release, with jobs of each kind."""
    url = f"sqlite:///{tmp_path / 'past.sqlite3'}"
    with closing(Database(url)) as db:
        load_past(db)
    with registries.embedded(tmp_path / "home", database_url=url) as world:
        with world.services.db.write() as session:
            session.execute(update(Job).values(state="cancelled", lease_until_s=None))
        yield world


def add_job(world: World, name: str, request: Any, **values: Any) -> str:
    with world.services.db.write() as session:
        given = {"kind": "training", "subject": "x", "request_digest": "0" * 64, "created_by": "ana", "state": "queued"}
        append(session, Job, {"id": name, "request": request, **given, **values})
    return name


def recorded(kind: str, release: str = NOW) -> Any:
    """A row as a release recorded it, or as this one writes it."""
    if release == NOW:
        return rows()[kind].model_dump(mode="json")
    return json.loads((ASSETS / f"rows_{release}.json").read_bytes())[kind]


def claimed(world: World, **about: Any) -> str | None:
    worker = WORKER.model_copy(update=about)
    held = world.services.claims.claim(claim=ClaimRequest(worker=worker), who=LOCAL)
    return None if held is None else held.job


class TestClaims:
    def waiting(self, world: World) -> dict[str, Any]:
        """The request of a job that can be given to a worker."""
        with world.services.db.read() as session:
            return dict(session.scalars(select(Job.request).where(Job.kind == "training")).first() or {})

    @pytest.mark.parametrize("broken", [{}, [], "x", None, {"kind": "training", "spec": {"method": "of_tomorrow"}}])
    def test_one_that_cant_be_read_fails_and_the_next_is_given(self, world: World, broken: Any) -> None:
        good = self.waiting(world)
        request = {**good, **broken} if isinstance(broken, dict) and broken else broken
        add_job(world, "broken", request, priority=5)
        add_job(world, "good", good)
        assert claimed(world) == "good"
        view = world.writer.jobs.view("broken")
        assert (view.state, view.reason) == ("failed", "unreadable")
        assert "upgrade the registry" in view.message
        assert claimed(world) is None

    def test_a_field_of_tomorrow_is_passed_over(self, world: World) -> None:
        add_job(world, "newer", with_unknown_fields(self.waiting(world)))
        assert claimed(world) == "newer"

    def test_a_kind_of_tomorrow_waits_for_whoever_knows_it(self, world: World) -> None:
        add_job(world, "newer", {"kind": "distillation"}, kind="distillation", priority=9)
        add_job(world, "good", self.waiting(world))
        assert claimed(world, kinds=["training", "distillation"]) == "good"
        view = world.writer.jobs.view("newer")
        assert (view.state, view.kind) == ("queued", "distillation")
        assert view.waits == "this registry has no jobs of the kind 'distillation'; upgrade it"

    def test_a_state_of_tomorrow_is_shown_and_is_not_final(self, world: World) -> None:
        add_job(world, "newer", self.waiting(world), state="paused")
        view = world.writer.jobs.view("newer")
        assert (view.state, view.state.value, view.state.is_final) == ("paused", "paused", False)
        assert [job.id for job in world.writer.jobs() if job.view.state == "paused"] == ["newer"]

    def test_one_that_expires_is_looked_at_beside_others(self, world: World) -> None:
        for name in ("odd", "good"):
            add_job(world, name, [], state="running", attempt=1, lease_until_s=1.0, worker="w")
        with world.services.db.write() as session:
            session.add_all(Attempt(job_id=name, attempt=1, worker="w", state="running") for name in ("odd", "good"))
            session.execute(update(Job).where(Job.id == "odd").values(kind="distillation"))
        assert world.services.claims.requeue_expired() == 2


def test_whoever_acts_by_a_row_is_told_what_is_not_understood() -> None:
    request = recorded("training")
    whole = TrainingRequest.model_validate(request)
    assert read_stored(TrainingRequest, with_unknown_fields(request), of="job x") == whole
    request["spec"]["schedule"] = "of_tomorrow"
    with pytest.raises(Unreadable, match=r"what is stored of job x can't be read by this release \(spec.schedule"):
        read_stored(TrainingRequest, request, of="job x")


RELEASES = [NOW, *sorted(path.stem.removeprefix("rows_") for path in ASSETS.glob("rows_*.json"))]


class TestWhatWasRecorded:
    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_read_and_written_the_same(self, kind: str, release: str) -> None:
        found = read(KINDS[kind], recorded(kind, release))
        assert found.model_dump(mode="json") == recorded(kind, release)

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_read_with_fields_of_a_later_release(self, kind: str) -> None:
        row = recorded(kind)
        more = {**row, "of_tomorrow": 1}
        assert read(KINDS[kind], more) == read(KINDS[kind], row)


class TestClients:
    """A client reads what a registry one minor version ahead answers."""

    def view(self) -> dict[str, Any]:
        absent = dict.fromkeys(("reason", "message", "progress", "result", "worker", "started_at", "finished_at"))
        return {
            "id": "3f1c",
            "kind": "distillation",
            "state": "paused",
            "subject": "x",
            "attempt": 1,
            "cancel_requested": False,
            "request": {},
            "created_at": "2026-01-01T00:00:00Z",
            "needs": {"device": "tpu", "memory_bytes": None},
            **absent,
            "of_tomorrow": [1],
        }

    def test_a_job(self) -> None:
        view = read_json(JobView, json.dumps(self.view()), open_ended=True)
        assert (view.state, view.needs.device, view.kind) == ("paused", "tpu", "distillation")
        assert view.state not in set(JobState)
        assert view.model_dump(mode="json")["state"] == "paused"

    def test_its_events(self) -> None:
        event = {"seq": 1, "at": "2026-01-01T00:00:00Z", "attempt": 1, "kind": "metric", "state": None}
        progress = {"phase": "train", "unit": "images", "of_tomorrow": 1}
        found = read_json(Event, json.dumps({**event, "progress": progress}), open_ended=True)
        assert (found.kind, found.progress.unit) == ("metric", "images")

    def test_lineage_without_what_it_does_not_know(self) -> None:
        base = {"kind": "base", "key": "base:1", "id": "tiny", "revision": None, "fingerprint": "1"}
        graph = {
            "root": "base:1",
            "direction": "both",
            "depth": 1,
            "nodes": [base, {"kind": "deployment", "key": "d:1"}],
            "edges": [{"source": "d:1", "target": "base:1", "relation": "deployed-over"}],
            "truncated": False,
            "unfollowed": 0,
        }
        found = read_json(Lineage, json.dumps(graph), open_ended=True)
        assert [node.key for node in found.nodes] == ["base:1"]
        from sdk.cli.commands.lineage import dot, tree

        assert len(tree(found)) == 1
        assert "->" not in dot(found)

    def test_what_is_sent_stays_strict(self) -> None:
        request = recorded("training")
        for change in ({"of_tomorrow": 1}, {"kind": "distillation"}, {"spec": {"method": "of_tomorrow"}}):
            with pytest.raises(ValidationError):
                TrainingRequest.model_validate({**request, **change})
        with pytest.raises(ValidationError):
            Progress.model_validate({"phase": "train", "unit": "images"})

    def test_a_version_of_which_not_all_can_be_read_says_so(self, world: World) -> None:
        with world.services.db.write() as session:
            version = session.scalars(select(Version).where(Version.state == "ready")).first()
            version.lora = {**copy.deepcopy(version.lora), "alpha_pattern": {"q": "odd"}, "of_tomorrow": 1}
            ref = f"{version.adapter.name}@v{version.number}"
        answer = world.http.get("/api/v1/versions", params={"adapter": ref.partition("@")[0]}).json()
        view = next(item for item in answer["items"] if item["ref"] == ref)
        assert VersionView.model_validate_json(json.dumps(view)).lora.alpha_pattern == {}
        assert view["warnings"][-1] == (
            "this release of the registry can't read its lora.alpha_pattern.q; upgrade the registry to see that"
        )


def test_every_error_of_it_is_one_that_clients_know(world: World) -> None:
    with world.services.db.write() as session:
        session.execute(update(Job).where(Job.kind == "training").values(request={}))
        job = session.scalars(select(Job.id).where(Job.kind == "training")).first()
    assert job is not None
    with pytest.raises(AdapterctlError):
        world.writer.jobs.publish_checkpoint(job, 1)
