"""What the benchmarks of jobs run on: PostgreSQL and Valkey from their wheels, registries over them, and their workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters import seed
from servers import RegistryServer, environment_of, registry_server

from sdk.client import Client
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission
from sdk.stack.postgres import PostgresServer
from sdk.stack.valkey import ValkeyServer

#: What Celery says once it takes tasks.
_READY = " ready."
_START_S = 120.0
_STOP_S = 20.0
_LOOK_S = 0.1


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """Run PostgreSQL with settings of its own; what is committed is on the disk, as by default."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Root's PostgreSQL runs as somebody who may not enter a closed folder.
        folder.chmod(0o711)
        server = PostgresServer(folder / "home", settings=settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def valkey_server() -> Iterator[ValkeyServer]:
    """Run Valkey."""
    with tempfile.TemporaryDirectory() as name:
        server = ValkeyServer(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def broker_url(valkey: ValkeyServer, number: int) -> str:
    """One of Valkey's databases, each of which is a broker that knows nothing of the others."""
    return f"{valkey.url.removesuffix('/0')}/{number}"


@dataclass(frozen=True)
class Site:
    """A registry over PostgreSQL, a client that may do anything there, and a token for workers."""

    server: RegistryServer
    database_url: str
    #: None: nobody tells the workers.
    broker_url: str | None
    client: Client
    worker_token: str
    folder: Path


@contextmanager
def site(postgres: PostgresServer, name: str, broker: str | None = None, **settings: str) -> Iterator[Site]:
    """Run a registry over a new database of this name; `settings` are variables of its environment."""
    with ExitStack() as stack:
        database_url = postgres.create_database(name)
        settings |= {} if broker is None else {"REGISTRY_BROKER_URL": broker}
        server = stack.enter_context(registry_server(database_url, **settings))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = Client(server.url, server.tokens["admin"], cache=folder / "cache")
        stack.callback(client.close)
        worker_token = client.tokens.create("worker", {"*": "worker"}).secret
        yield Site(server, database_url, broker, client, worker_token, folder)


def small_job(at: Site) -> JobSubmission:
    """Publish what an evaluation needs, and return one that is small, to be submitted as often as wanted."""
    seed(at.client, at.folder)
    rows = at.folder / "rows.jsonl"
    rows.write_text('{"prompt": "one and one is ", "completion": "two"}\n')
    request = EvaluationRequest(targets=[EvaluationTarget(ref="bench@v1")], data=at.client.datasets.add(rows).digest)
    return JobSubmission(request=request)


@contextmanager
def worker(at: Site, name: str, command: Sequence[str], **variables: str) -> Iterator[int]:
    """Run a Celery worker of a registry, and give its process id once it takes tasks and the registry knows of it."""
    assert at.broker_url is not None
    environment = environment_of(
        ADAPTERCTL_URL=at.server.url,
        ADAPTERCTL_TOKEN=at.worker_token,
        ADAPTERCTL_CACHE=str(at.folder / f"cache-of-{name}"),
        ADAPTER_WORKER_NAME=name,
        REGISTRY_BROKER_URL=at.broker_url,
        HF_HUB_OFFLINE="1",
        **variables,
    )
    with celery_process(command, environment, at.folder / f"{name}.log") as pid:
        deadline = time.monotonic() + _START_S
        while name not in {known.name for known in at.client.workers()}:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the registry does not hear of the worker {name}")
            time.sleep(_LOOK_S)
        yield pid


@contextmanager
def celery_process(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[int]:
    """Run a Celery worker until the block ends, and give its process id once it takes tasks."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), env=environment, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_S
        while _READY not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} did not come up:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(_LOOK_S)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def celery_command(app: str, name: str, *options: str) -> list[str]:
    """The command that runs a Celery application of a module beside this one, one task at a time."""
    hostname = f"--hostname={name}@%h"
    return [
        sys.executable,
        "-m",
        "celery",
        "-A",
        app,
        "worker",
        "--concurrency=1",
        hostname,
        "--loglevel=INFO",
        *options,
    ]
