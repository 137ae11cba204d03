"""Several clients at once, while server processes are killed and stopped: each object is as if their calls had come in
turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from faults.jobs.parts import end
from faults.linearizability.checker import Call, Violation, check
from faults.linearizability.client import Caller, Config, history_of, numbers_of, show_job
from faults.linearizability.served import Served, Strike
from faults.linearizability.specs import Alias, Job, alias, job_of, numbers
from support.adapters import base_registration, save_adapter
from support.databases import new_database
from support.guard import Guard
from support.people import package
from support.scored_rows import CONDITIONS
from support.soak import SOAKING, scale
from support.workplace import wait_until

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission, JobView

pytestmark = [pytest.mark.soak, pytest.mark.slow]

LEASE_S = 2.0
CLIENTS = 4
JOBS = 6
CONTENTS = 12
#: Calls of all clients before the first strike, between two, and after the last.
_QUIET = 100
_ROUNDS = scale(20)
#: The short run has each strike once, on one of the databases.
SHORT = {"sqlite": [Strike.STOP_ONE, Strike.KILL_ALL], "postgresql": [Strike.KILL_ONE, Strike.STOP_ALL]}


class Place:
    """A registry and what clients call on it."""

    def __init__(self, kind: str, folder: Path, server: Served, database: Database) -> None:
        #: Of database.
        self.kind = kind
        self.folder = folder
        self.server = server
        self._tokens = Tokens(database)
        admin = Client(server.url, self._token(Role.ADMIN), cache=folder / "cache")
        admin.bases.register(base_registration())
        rows = folder / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        self._data = admin.datasets.add(rows, namespace="-").digest
        # What any version of the namespace holds may be published there again without being sent.
        self.contents = dict(self._publish(admin, number) for number in range(CONTENTS))
        self._admin = admin
        self.writer, self.worker = self._token(Role.WRITER), self._token(Role.WORKER)

    def _token(self, role: Role) -> str:
        return self._tokens.create(name=f"{role} {os.urandom(4).hex()}", grants={"-": role}, who=SYSTEM).secret

    def _publish(self, admin: Client, number: int) -> tuple[str, dict[str, Any]]:
        adapter = save_adapter(self.folder / f"adapter-{number}", number)
        version = admin.push(adapter, "known", base="tiny")
        said = package(adapter, self.folder, "known").model_copy(update={"upload": None})
        assert said.manifest.digest == version.digest
        return version.digest, said.model_dump(mode="json", exclude_none=True)

    def close(self) -> None:
        """Close the connections."""
        self._admin.close()

    def new_alias(self, name: str) -> tuple[str, str]:
        """An alias of an adapter with three versions."""
        for number in range(3):
            self._admin.push(self.folder / f"adapter-{number}", name, base="tiny")
        return (name, "live")

    def new_jobs(self) -> dict[str, dict[str, Any]]:
        """Jobs that wait; for each the result that completes it."""
        version = self._admin.get("known@v1")
        request = EvaluationRequest(targets=[EvaluationTarget(ref="known@v1")], data=self._data, only=True)
        conditions = CONDITIONS.model_dump(mode="json", exclude_unset=True)
        report = {"metrics": {"loss": 1.0}, "precision": "float32", "conditions": conditions}
        result = {
            "label": "known@v1",
            "digest": version.digest,
            "base_fingerprint": version.info.base.fingerprint,
            "report": report,
        }
        submitted = [
            self._admin.call("POST", "/jobs", JobView, body=JobSubmission(request=request)) for _ in range(JOBS)
        ]
        return {job.id: {"evaluations": [result]} for job in submitted}


@contextmanager
def _place(kind: str, request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapterctl-calls-")))
        guard = stack.enter_context(Guard())
        url = stack.enter_context(new_database(kind, folder, request))
        database = Database(url)
        stack.callback(database.close)
        database.upgrade()
        server = Served(folder / "registry", database_url=url, lease_s=LEASE_S)
        server.start(240)
        guard.watch(server.pid, server.directory)
        stack.callback(end, server)
        place = Place(kind, folder, server, database)
        stack.callback(place.close)
        yield place


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with _place(request.param, request) as place:
        yield place


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(_ROUNDS))
def test_what_clients_see_could_have_been_seen_had_they_come_in_turn(number: int, place: Place) -> None:
    random = Random(f"calls {number}")
    prefix = f"round-{number}"
    aliases = [place.new_alias(f"{prefix}-{which}") for which in range(2)]
    jobs = place.new_jobs()
    strikes = random.choices(list(Strike), k=6) if SOAKING else SHORT[place.kind]
    records = _run(place, prefix, aliases, jobs, list(strikes), random)
    histories = _by_object(records, jobs)
    assert all(_calls(histories, kind) > _QUIET / 5 for kind in ("alias", "numbers", "job"))
    found = {name: violation for name, violation in _violations(histories).items() if violation is not None}
    assert not found, "\n".join(f"{name}: {violation}" for name, violation in found.items())


def _run(
    place: Place,
    prefix: str,
    aliases: list[tuple[str, str]],
    jobs: dict[str, dict[str, Any]],
    strikes: list[Strike],
    random: Random,
) -> list[dict[str, Any]]:
    """Let clients call while the server is struck; return what they wrote down, and how all looks at the end."""
    stop = place.folder / f"{prefix}-stop"
    configs = [
        Config(
            url=place.server.url,
            writer=place.writer,
            worker=place.worker,
            seed=f"{prefix}-{number}",
            prefix=prefix,
            kinds=["alias", "numbers", "job"],
            aliases=aliases,
            versions=3,
            contents=place.contents,
            jobs=jobs,
            record=str(place.folder / f"{prefix}-{number}.jsonl"),
            stop=str(stop),
        )
        for number in range(CLIENTS)
    ]
    clients = [_start(place.folder / f"{prefix}-{number}.json", config) for number, config in enumerate(configs)]
    records = [Path(config.record) for config in configs]
    _wait_for_calls(records)
    for strike in strikes:
        print(strike.value)
        place.server.strike(strike, random)
        _wait_for_calls(records)
    stop.touch()
    for client in clients:
        assert client.wait(60) == 0
    calls = [json.loads(line) for record in records for line in record.read_text().splitlines()]
    return [*calls, *_looks(configs[0], calls)]


def _wait_for_calls(records: list[Path]) -> None:
    """Wait until clients have called a good deal more."""

    def counted() -> int:
        return sum(record.read_bytes().count(b"\n") for record in records if record.exists())

    enough = counted() + _QUIET
    wait_until(lambda: counted() >= enough, lambda: f"only {counted()} of {enough} calls")


def _start(path: Path, config: Config) -> subprocess.Popen[bytes]:
    path.write_text(config.dump())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-m", "faults.linearizability.client", str(path)], env=environment)


def _looks(config: Config, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How all objects look at the end, as calls of one more client."""
    found: list[dict[str, Any]] = []
    caller = Caller(config.url, config.writer, found.append)
    for adapter, name in config.aliases:
        caller.call(f"alias {adapter}@{name}", "history", [], lambda to, of=(adapter, name): history_of(to, *of))
    for name in sorted({record["object"] for record in records if record["object"].startswith("numbers ")}):
        adapter = name.partition(" ")[2]
        caller.call(name, "list", [], lambda to, of=adapter: numbers_of(to, of))
    for job in config.jobs:
        show_job(caller, job)
    caller.close()
    return found


def _by_object(records: list[dict[str, Any]], jobs: dict[str, Any]) -> dict[str, list[Call]]:
    """The calls on each object."""
    found: dict[str, list[Call]] = defaultdict(list)
    for record in records:
        end_s = {} if record["ended"] is None else {"ended": record["ended"]}
        call = Call(record["op"], _frozen(record["args"]), _frozen(record["answer"]), record["began"], **end_s)
        # A claim without an answer may have been given any of them.
        names = [f"job {job}" for job in jobs] if record["object"] == "any job" else [record["object"]]
        for name in names:
            found[name].append(call)
    return found


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _calls(histories: dict[str, list[Call]], kind: str) -> int:
    return sum(len(calls) for name, calls in histories.items() if name.startswith(kind))


def _violations(histories: dict[str, list[Call]]) -> dict[str, Violation | None]:
    specs: dict[str, tuple[Any, Any]] = {
        "alias": (alias, Alias()),
        "numbers": (numbers, ()),
        "job": (job_of(LEASE_S), Job()),
    }
    found = {}
    for name, calls in histories.items():
        spec, initial = specs[name.partition(" ")[0]]
        found[name] = check(calls, spec, initial)
        open_calls = sum(call.is_open for call in calls)
        print(f"{name}: {len(calls)} calls, {open_calls} without an answer")
    return found
