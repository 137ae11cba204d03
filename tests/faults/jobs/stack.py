"""A whole stack of real processes whose parts can be killed: PostgreSQL, Valkey, SeaweedFS, a registry, two workers.

Workers reach their registry through a proxy, so that a test can be there before a request passes, and after its answer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from faults.jobs.gates import Gates
from faults.jobs.parts import Registry, Worker, end, process_at
from faults.prepared import prepare
from sqlalchemy import text
from support.guard import Guard
from support.registries import World
from support.workplace import Workplace, wait_until

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.jobs.models import Job
from registry.jobs.present import present_attempts
from registry.jobs.reconcile import LEADER_LOCK
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.schemas.job_requests import CheckpointPolicy, TrainingRequest
from sdk.schemas.jobs import JobState, JobSubmission, JobView, Needs
from sdk.schemas.training import TrainingSpec
from sdk.stack.local_process import LocalProcess
from sdk.stack.postgres import PostgresServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer

#: Within one attempt a training of this length can be struck at each of its moments.
STEPS = 60
EVERY_STEPS = 6
#: After how many steps a training looks at its held-out rows; the best weights are published.
LOOK_STEPS = 15
UNDISTURBED_SEED = 1000


@dataclass
class _Reached:
    """A registry that is reached over HTTP and through its database, as a workplace wants it."""

    url: str
    admin: Client
    database: Database

    @property
    def writer(self) -> Client:
        """The admin, who may write as well."""
        return self.admin

    def token(self, role: Role, *, namespace: str = "-") -> str:
        """Make a token."""
        grants = {namespace: role}
        return Tokens(self.database).create(name=f"{role.value} of {namespace}", grants=grants, who=SYSTEM).secret


@dataclass(frozen=True)
class Row:
    """A job as it stands."""

    state: JobState
    attempt: int
    worker: str | None
    step: int


class Stack(Workplace):
    """Everything, running."""

    def __init__(self, folder: Path, started: ExitStack) -> None:
        self._guard = started.enter_context(Guard())
        settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}
        self.postgres = PostgresServer(folder / "postgres", settings=settings)
        self.valkey = ValkeyServer(folder / "valkey")
        self.seaweed = SeaweedServer(folder / "seaweed")
        self.registry = Registry(folder / "registry", postgres=self.postgres, valkey=self.valkey, seaweed=self.seaweed)
        for server in (self.postgres, self.valkey, self.seaweed):
            self.start(server)
        started.callback(self.postgres.stop)
        # In order SeaweedFS takes three seconds.
        for server in (self.valkey, self.seaweed):
            started.callback(end, server)
        self.registry.prepare_bucket()
        self.registry._make_directory()
        prepare(self.registry, self.postgres)
        self.start(self.registry)
        started.callback(end, self.registry)
        self.database = Database(self.registry.database_url)
        started.callback(self.database.close)
        admin = Client(self.registry.url, self.registry.tokens["admin"], cache=folder / "cache")
        started.callback(admin.close)
        self.reached = _Reached(self.registry.url, admin, self.database)
        super().__init__(cast("World", self.reached), folder)
        self.gates = Gates()
        self.workers_at_work = [self._add_worker(number, started) for number in (1, 2)]

    def _add_worker(self, number: int, started: ExitStack) -> Worker:
        worker = Worker(self.folder / "workers", number, registry=self.registry, valkey=self.valkey, token=self.token)
        worker.proxy.upstream = ("127.0.0.1", self.registry.ports[0])
        self.gates.stand_in(started.enter_context(worker.proxy))
        self.start(worker)
        started.callback(end, worker)
        return worker

    @cached_property
    def undisturbed(self) -> str:
        """A training that nothing has happened to, which others are held against."""
        job = self.train("undisturbed", seed=UNDISTURBED_SEED)
        self.wait_for_end([job])
        row = self.row(job)
        assert (row.state, row.attempt) == (JobState.SUCCEEDED, 1), self.explain(job)
        return job

    def start(self, part: LocalProcess) -> None:
        """Start a part of the stack, or start it again."""
        part.start(240)
        self._guard.watch(part.pid, part.directory)

    def worker_named(self, name: str | None) -> Worker | None:
        """The worker of that name."""
        return next((worker for worker in self.workers_at_work if worker.name == name), None)

    def train(
        self,
        adapter: str,
        *,
        steps: int = STEPS,
        every_steps: int | None = EVERY_STEPS,
        needs: Needs | None = None,
        data: str | None = None,
        **spec: Any,
    ) -> str:
        """Submit a training; return its id."""
        watched = {"holdout": 0.25, "eval_every": str(LOOK_STEPS), "keep": "best"} if steps > LOOK_STEPS else {}
        given = {"method": "lora", "max_steps": steps, "batch_size": 2, "grad_accum": 1, **watched, **spec}
        request = TrainingRequest(
            adapter=adapter,
            base=self.base,
            data=data or self.data,
            spec=TrainingSpec(**given),
            checkpoint=CheckpointPolicy(every_steps=every_steps, every_minutes=None),
        )
        return self.client.call("POST", "/jobs", JobView, body=JobSubmission(request=request, needs=needs)).id

    def row(self, job: str) -> Row:
        """What the database says of a job: it can be asked while the registry is away."""
        with self.database.read() as session:
            found = session.get_one(Job, job)
            progress = found.progress or {}
            step = (progress.get("step") or 0) if progress.get("phase") == "train" else 0
            return Row(JobState(found.state), found.attempt, found.worker, step)

    def leader(self) -> int | None:
        """The process of the registry that reconciles: it holds the lock for it."""
        query = text(
            "SELECT client_port FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND granted"
            " AND (classid::bigint << 32) + objid::bigint = :key"
        )
        with self.database.read() as session:
            port = session.execute(query, {"key": LEADER_LOCK}).scalar()
        return None if port is None else process_at(port)

    def wait_for_end(self, jobs: Sequence[str]) -> None:
        """Wait until each of these jobs is in a final state."""
        wait_until(
            lambda: all(self.row(job).state.is_final for job in jobs),
            lambda: "\n".join(self.explain(job) for job in jobs),
        )

    def explain(self, job: str) -> str:
        """All that is known of a job."""
        with self.database.read() as session:
            attempts = "\n".join(str(attempt) for attempt in present_attempts(session, job))
        lines = "\n".join(line for worker in self.workers_at_work for line in worker.lines if job in line)
        return f"{self.row(job)}\n{attempts}\n{lines}"


@contextmanager
def running() -> Iterator[Stack]:
    """A stack for the length of the block."""
    # Not pytest's folders: those are closed to the unprivileged user as whom root's PostgreSQL runs.
    folder = Path(tempfile.mkdtemp(prefix="adapterctl-faults-"))
    folder.chmod(0o711)
    try:
        with ExitStack() as started:
            yield Stack(folder, started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
