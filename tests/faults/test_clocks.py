"""Two servers over one database, whose clocks are two hours apart: what times decide is decided as if they were not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import processes
from support.adapters import base_registration, save_adapter

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.schemas.jobs import JobView
from sdk.schemas.work import Assignment, ClaimRequest, Heartbeat, HeartbeatReply, Release

pytestmark = pytest.mark.slow

SKEWED = Path(__file__).parent / "hooks" / "skewed"
APART_S = 7200
#: Several times within the test.
SWEEP_S = 0.2


@dataclass(frozen=True)
class Pair:
    """A client of each server."""

    ahead: Client
    behind: Client


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("clocks")
    server = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex}"
    url = server.create_database(name)
    with ExitStack() as stack:
        stack.callback(server.drop_database, name)
        db = Database(url)
        stack.callback(db.close)
        db.upgrade()
        token = Tokens(db).create(name="ops", grants={"*": Role.ADMIN}, days=1, who=SYSTEM).secret
        started = []
        for ahead_s in (APART_S / 2, -APART_S / 2):
            port, log = processes.free_port(), folder / f"server{ahead_s:+.0f}.log"
            env = processes.environment(
                REGISTRY_DATABASE_URL=url,
                REGISTRY_STORAGE_URL=(folder / "artifacts").as_uri(),
                REGISTRY_RECONCILE_S=str(SWEEP_S),
                PYTHONPATH=str(SKEWED),
                SKEWED_S=str(ahead_s),
            )
            stack.enter_context(processes.running("adapter-registry", "serve", "--port", str(port), env=env, log=log))
            started.append((f"http://127.0.0.1:{port}", log))
        clients = []
        for address, log in started:
            processes.wait_until_healthy(address, log=log)
            clients.append(Client(address, token, cache=folder / f"cache-{len(clients)}"))
            stack.callback(clients[-1].close)
        pair = Pair(*clients)
        pair.ahead.bases.register(base_registration())
        for seed, client in enumerate((pair.ahead, pair.behind, pair.ahead)):
            client.push(save_adapter(folder / f"adapter-{seed}", seed), "team/a", base="tiny")
        yield pair


def test_the_servers_do_not_agree_on_the_time(pair: Pair) -> None:
    first, second, third = (pair.behind.get(f"team/a@v{number}").info.created_at for number in (1, 2, 3))
    assert (first - second).total_seconds() > APART_S - 60
    assert (third - second).total_seconds() > APART_S - 60


def test_the_newest_version_and_the_last_move_are_those_that_came_last(pair: Pair) -> None:
    assert pair.behind.get("team/a").number == 3
    for number, client in ((1, pair.ahead), (2, pair.behind), (3, pair.ahead)):
        client.set_alias("team/a", "production", number)
    moves = [move.to_number for move in pair.behind.aliases.history("team/a", "production")]
    assert moves == [3, 2, 1]
    assert pair.behind.rollback("team/a", "production").number == 2
    assert pair.ahead.get("team/a@production").number == 2


def test_a_job_is_held_by_whoever_holds_it(pair: Pair, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    job = pair.behind.submit_training("team/a", base="tiny", data=rows, rank=2).id
    worker = {"name": "w1", "device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**34}
    for holder, other in ((pair.ahead, pair.behind), (pair.behind, pair.ahead)):
        claim = ClaimRequest.model_validate({"worker": worker})
        assignment = holder.call("POST", "/jobs/claim", Assignment, body=claim)
        assert assignment.job == job
        for _ in range(3):
            # Both servers look for leases that have run out, by the clock of the database.
            time.sleep(2 * SWEEP_S)
            beat = Heartbeat(attempt=assignment.attempt)
            assert other.call("POST", f"/jobs/{job}/heartbeat", HeartbeatReply, body=beat).cancel is False
        view = other.jobs.view(job)
        assert (view.state, view.attempt) == ("running", assignment.attempt)
        other.call("POST", f"/jobs/{job}/release", JobView, body=Release(attempt=assignment.attempt))


def test_a_collection_by_the_clock_that_is_ahead_removes_nothing_young(pair: Pair, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "young", 77)
    version = pair.behind.push(folder, "team/b", base="tiny")
    report = pair.ahead.retention.gc(dry_run=False)
    assert (report.blobs, report.blobs_without_row.count, report.expired_uploads) == (0, 0, 0)
    pair.ahead.pull(version.ref, tmp_path / "pulled")
