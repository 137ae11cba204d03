"""A registry as `adapterctl up` runs it, whose parts can be stopped, and requests to each of its routes at once.

A stopped process is not a dead one: its kernel takes connections and acknowledges what is sent, and nothing comes back.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from faults.jobs.parts import end
from faults.prepared import prepare
from support.adapters import base_registration, save_adapter
from support.guard import Guard
from support.soak import SOAKING
from support.workplace import descendants

from sdk.client import Client
from sdk.pushing.pack import pack_adapter
from sdk.schemas.artifacts import BlobSpec, UploadRequest
from sdk.schemas.catalog import Publication
from sdk.stack.local_process import LocalProcess
from sdk.stack.postgres import PostgresServer
from sdk.stack.programs import RegistryServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer

#: What a registry waits for in fewer seconds than it does by itself, which a soak looks at.
IMPATIENT = (
    {}
    if SOAKING
    else {
        # The driver's library takes no less than 2.
        "REGISTRY_DATABASE_CONNECT_S": "2",
        "REGISTRY_DATABASE_STATEMENT_S": "1.5",
        "REGISTRY_DATABASE_LOCK_S": "1.2",
        "REGISTRY_DATABASE_POOL_S": "1",
        "REGISTRY_DATABASE_DEADLINE_S": "2",
        "REGISTRY_STORAGE_DEADLINE_S": "3",
    }
)
#: No request is waited for longer, whatever has stopped.
DEADLINE_S = 10.0 if SOAKING else 7.0
#: A client that waits for much longer than it has to.
_PATIENT_S = 30.0


@dataclass(frozen=True)
class Ask:
    """One request."""

    name: str
    method: str
    target: str
    body: bytes | None = None
    #: Whether the answer has no end of its own.
    streams: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    ask: Ask
    #: 0: nothing, in `_PATIENT_S`.
    status: int
    took_s: float
    headers: Mapping[str, str]
    text: str


class Registry(RegistryServer):
    """A server that is as patient as is said here."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | IMPATIENT


class Standing:
    """Everything, running, with an adapter, a dataset and a job in it."""

    def __init__(self, folder: Path, started: ExitStack) -> None:
        guard = started.enter_context(Guard())
        settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}
        self.postgres = PostgresServer(folder / "postgres", settings=settings)
        self.valkey = ValkeyServer(folder / "valkey")
        self.seaweed = SeaweedServer(folder / "seaweed")
        self.registry = Registry(folder / "registry", postgres=self.postgres, valkey=self.valkey, seaweed=self.seaweed)
        servers = (self.postgres, self.valkey, self.seaweed)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.start(240), servers))
        started.callback(self.postgres.stop)
        # In order SeaweedFS takes three seconds.
        for server in (self.valkey, self.seaweed):
            started.callback(end, server)
        for server in servers:
            guard.watch(server.pid, server.directory)
        self.registry.prepare_bucket()
        self.registry._make_directory()
        prepare(self.registry, self.postgres)
        self.registry.start(240)
        started.callback(end, self.registry)
        guard.watch(self.registry.pid, self.registry.directory)
        self.url = self.registry.url
        self.token = self.registry.tokens["admin"]
        self.client = Client(self.url, self.token, cache=folder / "cache")
        started.callback(self.client.close)
        self.folder = folder
        self._seeds = iter(range(1000))
        self.client.bases.register(base_registration())
        first = self.push("mine/kept")
        self.push("team/code-review")
        self.client.set_alias("mine/kept", "production", 1)
        rows = folder / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        self.data = self.client.datasets.add(rows).digest
        self.job = self.client.submit_training("mine/kept", base="tiny", data=rows, rank=2).id
        self.digest = first
        with Pulse(self) as pulse:
            self.ask_all(self.every_route())
        self.usual_s = pulse.slowest_s()

    def push(self, adapter: str) -> str:
        """Push an adapter of new bytes; return its digest."""
        return self.client.push(self.new_adapter(), adapter, base="tiny").digest

    def new_adapter(self) -> Path:
        """A folder with an adapter that nobody has."""
        seed = next(self._seeds)
        return save_adapter(self.folder / f"adapter-{seed}", seed)

    def sent(self, adapter: str) -> Publication:
        """An adapter whose files were sent, and that only needs to be published."""
        folder = self.new_adapter()
        staging = folder.with_name(f"{folder.name}-staging")
        staging.mkdir()
        base = base_registration()
        package = pack_adapter(
            folder, base_id=base.id, base_revision=base.revision, base_fingerprint=base.fingerprint, staging=staging
        )
        upload = self.client.uploader.upload(package.sources, "uploading")
        return Publication(adapter=adapter, upload=upload, manifest=package.manifest, lora=package.lora)

    def large_upload(self) -> UploadRequest:
        """A file that is sent in parts, so that the store is asked as the session begins."""
        return UploadRequest(blobs=[BlobSpec(sha256=os.urandom(32).hex(), size_bytes=2**30)])

    @contextmanager
    def stopped(self, part: LocalProcess) -> Iterator[None]:
        """Stop all processes of a part for the block."""
        assert part.pid is not None
        pids = [part.pid, *descendants(part.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    # Requests.

    def every_route(self) -> list[Ask]:
        """A request to each route of the document, most of which lead somewhere; and some that reach the store."""
        document = httpx.get(f"{self.url}/openapi.json").raise_for_status().json()
        known = {"job_id": self.job, "job": self.job, "adapter": "team/code-review", "name": "tiny", "base": "tiny"}
        known |= {"digest": self.digest, "ref": "mine/kept@production", "of": "mine/kept@v1"}
        asks = []
        for path, methods in document["paths"].items():
            for method, said in methods.items():
                values = {
                    one["name"]: str(known.get(one["name"], example_of(one)))
                    for one in said.get("parameters", [])
                    if one["in"] == "path" or one.get("required")
                }
                query = {one: values[one] for one in values if f"{{{one}}}" not in path}
                target = path.format(**values) + (f"?{urlencode(query)}" if query else "")
                body = None
                if "requestBody" in said:
                    body = json.dumps(said["requestBody"]["content"]["application/json"]["example"]).encode()
                name = said["operationId"]
                asks.append(Ask(name, method.upper(), target, body, streams=name.startswith("stream_")))
        return asks

    def ask(self, asked: Ask) -> Answer:
        """Send a request on a connection of its own."""
        where = urlsplit(self.url)
        began = time.monotonic()
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_PATIENT_S)
        headers = {"Authorization": f"Bearer {self.token}", "Connection": "close"}
        if asked.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(asked.method, asked.target, asked.body, headers)
            response = connection.getresponse()
            text = "" if asked.streams else response.read().decode()
            return Answer(asked, response.status, time.monotonic() - began, dict(response.getheaders()), text)
        except TimeoutError:
            return Answer(asked, 0, time.monotonic() - began, {}, "")
        finally:
            connection.close()

    def ask_all(self, asks: list[Ask]) -> list[Answer]:
        """Send all at once; return what came, the slowest first."""
        with ThreadPoolExecutor(len(asks)) as pool:
            return sorted(pool.map(self.ask, asks), key=lambda answer: -answer.took_s)


class Pulse:
    """Asks for the liveness of a registry all the while, as a probe does."""

    def __init__(self, standing: Standing, usual_s: float = 0.0) -> None:
        self._standing = standing
        #: How long the slowest answer takes while all is well.
        self.usual_s = usual_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self.answers: list[Answer] = []

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def slowest_s(self) -> float:
        """How long the slowest answer took."""
        return max(one.took_s for one in self.answers)

    def _beat(self) -> None:
        while not self._over.wait(0.05):
            self.answers.append(self._standing.ask(Ask("healthz", "GET", "/healthz")))


def example_of(parameter: dict[str, Any]) -> Any:
    """A value of a parameter of the document."""
    schema = parameter["schema"]
    found = [parameter.get("example"), *schema.get("examples", []), *parameter.get("examples", {}).values()]
    return next((one for one in found if one is not None), 1)


@contextmanager
def standing() -> Iterator[Standing]:
    """A registry for the length of the block."""
    # Not pytest's folders: those are closed to the unprivileged user as whom root's PostgreSQL runs.
    with tempfile.TemporaryDirectory(prefix="adapterctl-stops-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        with ExitStack() as started:
            yield Standing(folder, started)
