"""The parts of a stack that are killed: a registry with short leases, and workers that reach it through a proxy."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults.proxy import FaultProxy
from support.soak import SOAKING
from support.workplace import descendants, is_alive, wait_until

from registry.http.paths import HEALTHZ
from sdk.stack.local_process import LocalProcess
from sdk.stack.loopback import http_status
from sdk.stack.programs import RegistryServer, WorkerProcess
from sdk.stack.valkey import ValkeyServer

#: Beside other tests a heartbeat may be seconds late, which must not cost an attempt; a soak has the machine to itself.
LEASE_S = 4.0 if SOAKING else 8.0
SWEEP_S = 0.5 if SOAKING else 1.0
#: So short a lease is over before a server that was killed is up again: an outage costs an attempt here, as a worker's
#: death does, and a job whose worker died once must not be given up for the server's deaths.
MAX_ATTEMPTS = 5
#: Broker messages that nobody has acknowledged for so long are delivered again.
VISIBILITY_S = 3

#: The worker as it is, but for a setting of Celery's that has no variable.
_IMPATIENT_WORKER = f"""
from workers.entry.celery_app import app
app.conf.broker_transport_options = {{**app.conf.broker_transport_options, "visibility_timeout": {VISIBILITY_S}}}
from workers.entry.cli import main
main()
"""


class Registry(RegistryServer):
    """A server of two processes, with leases that a test can see the end of."""

    def __init__(self, directory: Path, **parts: Any) -> None:
        super().__init__(directory, **parts)
        #: Who kills it waits until it has come up: of a server that ends while it starts, nobody would try again.
        self._changing = threading.Lock()

    def start(self, timeout_s: float = 60.0, **wanted: Any) -> None:
        """Start it, or adopt it, and wait until it is healthy."""
        with self._changing:
            super().start(timeout_s, **wanted)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "REGISTRY_LEASE_S": str(LEASE_S),
            "REGISTRY_RECONCILE_S": str(SWEEP_S),
            "REGISTRY_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
        }

    def processes(self) -> list[int]:
        """The processes that answer requests."""
        below = descendants(self.pid or 0)
        return [pid for pid, line in below.items() if "spawn_main" in line]

    def answers(self) -> bool:
        """Whether one of its processes is there."""
        try:
            return http_status(self.kept["port"], HEALTHZ) == 200
        except OSError:
            return False

    def kill(self) -> bool:
        """End the server with all its processes, as a machine that goes away does; return whether it ran."""
        with self._changing:
            return [kill_process(pid) for pid in tree(self)].count(True) > 0


class Worker(WorkerProcess):
    """A worker with a warm child, a cache of its own, and a proxy between it and its registry."""

    def __init__(self, directory: Path, number: int, *, registry: Registry, valkey: ValkeyServer, token: str) -> None:
        super().__init__(directory, number, registry=registry, valkey=valkey)
        self.proxy = FaultProxy()
        self.cache = directory / f"cache-{number}"
        self._token = token
        self._left: list[int] = []
        self._reading = threading.Lock()
        self._read = 0
        self._lines: list[str] = []

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-c", _IMPATIENT_WORKER, "start", "--queue", "gpu", "--name", self.name]

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "ADAPTERCTL_URL": self.proxy.url,
            "ADAPTERCTL_TOKEN": self._token,
            "ADAPTERCTL_CACHE": str(self.cache),
            "ADAPTER_WORKER_NAME": self.name,
            "ADAPTER_WORKER_SHARED_PATHS": "",
            # A child that waits for the next job costs a worker that is killed soon seconds of computing for nothing.
            "ADAPTER_WORKER_WARM": "1" if SOAKING else "0",
            "HF_HUB_OFFLINE": "1",
            # Two trainings that both want every core would mostly wait for each other.
            "OMP_NUM_THREADS": "1",
        }

    @property
    def lines(self) -> list[str]:
        """All that it has said so far, in each of its lives."""
        with self._reading, self.log_path.open("rb") as log:
            log.seek(self._read)
            more = log.read()
            whole = more[: more.rfind(b"\n") + 1]
            self._read += len(whole)
            self._lines += whole.decode(errors="replace").splitlines()
            return list(self._lines)

    def child_of(self, job: str, attempt: int) -> int | None:
        """The process that it started for an attempt."""
        start = f"job={job} attempt={attempt} child "
        said = next((line for line in self.lines if start in line and line.endswith(": started")), None)
        return None if said is None else int(said.partition(start)[2].partition(":")[0])

    def kill(self) -> bool:
        """End its process; its children must see to their end themselves. Return whether it ran."""
        self._left = tree(self)
        return kill_process(self.pid)

    def wait_until_gone(self) -> None:
        """Wait until nothing is left of the worker whose process was killed."""
        wait_until(
            lambda: not any(map(is_alive, self._left)),
            lambda: f"{list(filter(is_alive, self._left))} outlive {self.name}",
        )


def kill_process(pid: int | None) -> bool:
    """Kill a process; return whether there was one."""
    if pid is None or not is_alive(pid):
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        # It has ended by itself.
        return False
    return True


def tree(part: LocalProcess) -> list[int]:
    """All processes of a part."""
    return [] if part.pid is None else [part.pid, *descendants(part.pid)]


def end(part: LocalProcess) -> None:
    """End a part for good: in order it would take its time to hand back what it has."""
    for pid in tree(part):
        kill_process(pid)
    part.stop()


def process_at(port: int) -> int | None:
    """The process whose end of a connection is at this port of loopback."""
    local = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{fields[9]}]" for fields in lines if fields[1] == local}
    processes = (process for process in Path("/proc").iterdir() if process.name.isdigit())
    return next((int(process.name) for process in processes if sockets & _open_files(process)), None)


def _open_files(process: Path) -> set[str]:
    """What a process has open; of a busy one, something is closed while this looks."""
    found = set()
    with suppress(OSError):
        for entry in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(str(entry.readlink()))
    return found
