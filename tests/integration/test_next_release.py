"""What is promised for upgrades, with a pretended next release: its migration runs beside servers of this one, and what it
says more is ignored, refused or kept from those who don't know it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from support import processes
from support.adapters import base_registration, digest, save_adapter
from support.next_release import NEXT, move_to, next_migrations, next_packages
from support.schemas import load_past

from registry.db.database import Database, head_revision
from registry.ops.schema import drift
from sdk.client import Client
from sdk.schemas.work import Assignment, ClaimRequest, WorkerInfo

ADAPTER = "team/code-review"


def environment(db: Database, folder: Path, **more: str) -> dict[str, str]:
    return processes.environment(
        REGISTRY_DATABASE_URL=db.url,
        REGISTRY_STORAGE_URL=(folder / "artifacts").as_uri(),
        REGISTRY_AUTH="none",
        ADAPTERCTL_CACHE=str(folder / "cache"),
        **more,
    )


@pytest.fixture
def db(empty_database_url: str) -> Iterator[Database]:
    """A filled registry of this release."""
    database = Database(empty_database_url)
    load_past(database)
    yield database
    database.close()


class TestMigration:
    """A filled table is changed while a server of this release answers and writes."""

    def test_a_server_goes_on_while_and_after_a_table_is_changed(self, db: Database, tmp_path: Path) -> None:
        migrations, env = next_migrations(tmp_path), environment(db, tmp_path)
        port, log = processes.free_port(), tmp_path / "server.log"
        faults: list[Exception] = []
        done = threading.Event()

        def work(client: Client) -> None:
            for number in range(10_000):
                try:
                    client.versions.annotate(f"{ADAPTER}@v1", tags={"round": str(number)})
                    assert [version.number for version in client.versions(ADAPTER)] == [5, 2, 1]
                except Exception as error:  # noqa: BLE001 - the test shows it
                    faults.append(error)
                if done.is_set() or faults:
                    return

        with processes.running("adapter-registry", "serve", "--port", str(port), env=env, log=log):
            processes.wait_until_healthy(f"http://127.0.0.1:{port}", log=log)
            with closing(Client(f"http://127.0.0.1:{port}", cache=tmp_path / "cache")) as client:
                worker = threading.Thread(target=work, args=(client,))
                worker.start()
                move_to(db, NEXT, migrations)
                done.set()
                worker.join(60)
                assert not worker.is_alive()
                assert faults == []
                assert db.revision() == NEXT
                assert shelves(db) == {("archived", "back"), ("deleted", "front"), ("ready", "front")}
                # What is written from now on has what the migration gives it.
                assert client.push(save_adapter(tmp_path / "pushed", 9), "team/pushed", base="tiny").number == 1
                client.versions.archive("team/pushed@v1")
                assert ("archived", "front") in shelves(db)
                assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
                # One that starts now is of the wrong release.
                other = processes.run("adapter-registry", "token", "create", "--role", "admin", env=env, timeout_s=60)
                assert (other.returncode, other.stdout) == (9, "")
                assert "pip install --upgrade adapterctl" in other.stderr
                move_to(db, head_revision(), migrations)
                assert client.get("team/pushed@v1").info.state == "archived"
        assert drift(db) == []
        assert "Traceback" not in log.read_text()


def shelves(db: Database) -> set[tuple[str, str]]:
    with db.engine.connect() as connection:
        return {(state, shelf) for state, shelf in connection.execute(text("SELECT state, shelf FROM versions"))}


#: Run with the packages of the next release: sends a body of its own as its client does, and prints the answer.
SEND = """
import json, sys
from contextlib import closing
from typing import Any
from sdk.client import Client
from sdk.errors import AdapterctlError
from sdk.schemas import jobs, work
from sdk.schemas.job_requests import TrainingRequest
url, method, path, kind, given = sys.argv[1:]
body = {"submission": jobs.JobSubmission, "claim": work.ClaimRequest, "heartbeat": work.Heartbeat}[kind]
with closing(Client(url)) as client:
    try:
        found = client.call(method, path, Any, body=body.model_validate_json(given))
    except AdapterctlError as error:
        found = {"refused": error.message}
print(json.dumps(found))
"""


class Fleet:
    """A server of this release and one of the next over one database, and what programs of both send."""

    def __init__(self, ours: str, theirs: str, packages: Path, env: dict[str, str]) -> None:
        self.ours, self.theirs = ours, theirs
        self._packages, self._env = packages, env

    def next_sends(self, url: str, path: str, kind: str, body: dict[str, Any]) -> Any:
        """What a program of the next release gets for a body."""
        done = processes.finished(
            sys.executable,
            "-c",
            SEND,
            url,
            "POST",
            path,
            kind,
            json.dumps(body),
            env={**self._env, "PYTHONPATH": str(self._packages)},
            cwd=self._packages,
            timeout_s=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    db = Database(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    db.upgrade()
    packages, env = next_packages(tmp_path), environment(db, tmp_path)
    db.close()
    ours, theirs = processes.free_port(), processes.free_port()
    serve = ("adapter-registry", "serve", "--port")
    with (
        processes.running(*serve, str(ours), env=env, log=tmp_path / "ours.log"),
        processes.running(*serve, str(theirs), env={**env, "PYTHONPATH": str(packages)}, log=tmp_path / "theirs.log"),
    ):
        urls = [f"http://127.0.0.1:{port}" for port in (ours, theirs)]
        for url, name in zip(urls, ("ours", "theirs"), strict=True):
            processes.wait_until_healthy(url, log=tmp_path / f"{name}.log")
        yield Fleet(*urls, packages, env)


WORKER: dict[str, Any] = {"device": "cuda", "memory_bytes": 2**40, "free_memory_bytes": 2**40}


def claimed(client: Client) -> str | None:
    """The job that a worker of this release is given."""
    claim = ClaimRequest(worker=WorkerInfo(name="ours", **WORKER))
    given = client.call("POST", "/jobs/claim", Assignment | None, body=claim)  # type: ignore[arg-type]
    return None if given is None else given.job


def test_what_only_the_next_release_knows_is_kept_from_this_one(fleet: Fleet, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    with (
        closing(Client(fleet.ours, cache=tmp_path / "cache")) as ours,
        closing(Client(fleet.theirs, cache=tmp_path / "cache")) as theirs,
    ):
        ours.bases.register(base_registration())
        request = {
            "kind": "training",
            "adapter": "a",
            "base": {"id": "tiny", "fingerprint": digest("tiny: base")},
            "data": ours.datasets.add(rows).digest,
        }
        plain = fleet.next_sends(fleet.ours, "/jobs", "submission", {"request": request})
        used = {"request": {**request, "spec": {"tempo": 3}}}
        # Bodies are strict: this server refuses a field that it doesn't know, and takes the request without it.
        assert "spec.tempo" in fleet.next_sends(fleet.ours, "/jobs", "submission", used)["refused"]
        waiting = fleet.next_sends(fleet.theirs, "/jobs", "submission", used)
        assert waiting["mood"] == "calm"
        assert waiting["request"]["spec"]["tempo"] == 3
        # Answers with more fields are read, without these.
        assert theirs.job(waiting["id"]).id == waiting["id"]
        # Neither server gives this worker the job that uses the field, also where it comes first.
        assert claimed(theirs) == plain["id"]
        assert claimed(theirs) is None
        assert theirs.jobs.view(waiting["id"]).waits == (
            "it uses spec.tempo, which no worker that may run it knows; upgrade the workers"
        )
        claim = {"worker": {"name": "theirs", **WORKER}}
        assert fleet.next_sends(fleet.ours, "/jobs/claim", "claim", claim) is None
        assert ours.jobs.view(waiting["id"]).waits == (
            "it uses spec.tempo, which this registry does not know; upgrade it"
        )
        # The next release's worker gets it from the next release's server.
        given = fleet.next_sends(fleet.theirs, "/jobs/claim", "claim", claim)
        assert (given["job"], given["request"]["spec"]["tempo"]) == (waiting["id"], 3)
        # A worker of the next release holds it at this server too, as long as it says nothing new.
        held = fleet.next_sends(fleet.ours, f"/jobs/{waiting['id']}/heartbeat", "heartbeat", {"attempt": 1})
        assert held["cancel"] is False
        more = {"attempt": 1, "pulse": 60}
        refused = fleet.next_sends(fleet.ours, f"/jobs/{waiting['id']}/heartbeat", "heartbeat", more)
        assert "pulse" in refused["refused"]
