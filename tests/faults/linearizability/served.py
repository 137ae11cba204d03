"""A registry of two server processes over a database and a folder, which can be killed, stopped and continued."""

from __future__ import annotations

import os
import signal
import time
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from faults.jobs.parts import kill_process, tree
from support.workplace import descendants, wait_until

from sdk.stack.local_server import LocalServer
from sdk.stack.loopback import free_ports, http_status
from sdk.stack.programs import _program, inherited_environment

#: How long what is stopped stays so, in seconds.
_STOPPED_S = (0.3, 1.5)


class Strike(StrEnum):
    """What can be done to the server."""

    #: One of the processes that answer stands still for a while.
    STOP_ONE = "stop one process"
    #: One of them is killed; the one above them starts another.
    KILL_ONE = "kill one process"
    #: All processes stand still.
    STOP_ALL = "stop all"
    #: All are killed, and the server is started again.
    KILL_ALL = "kill all"


class Served(LocalServer):
    """`adapter-registry serve --workers 2`, with leases that a test sees the end of."""

    name = "registry"
    stop_signals: ClassVar = ((signal.SIGTERM, 5.0),)

    def __init__(self, directory: Path, *, database_url: str, lease_s: float) -> None:
        super().__init__(directory)
        self._given = {
            "REGISTRY_AUTH": "token",
            "REGISTRY_DATABASE_URL": database_url,
            "REGISTRY_STORAGE_URL": (directory / "artifacts").as_uri(),
            "REGISTRY_LEASE_S": str(lease_s),
            "REGISTRY_RECONCILE_S": "0.3",
            # However often a worker is lost here, its job goes on.
            "REGISTRY_MAX_ATTEMPTS": "1000000",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.kept['port']}"

    @property
    def ports(self) -> list[int]:
        return [self.kept["port"]]

    def _choose(self) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {"port": port}

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.kept["port"]), "--workers", "2"]
        return _program("registry.ops.entry", "serve", *where)

    def _healthy(self) -> bool:
        return http_status(self.kept["port"], "/readyz") == 200

    def _environment(self) -> dict[str, str]:
        return inherited_environment() | self._given

    @property
    def processes(self) -> list[int]:
        """The processes that answer requests."""
        return [pid for pid, line in descendants(self.pid or 0).items() if "spawn_main" in line]

    def strike(self, strike: Strike, random: Random) -> None:
        """Do it. What was stopped goes on, and who was killed is back, when this returns."""
        everybody = strike in (Strike.STOP_ALL, Strike.KILL_ALL)
        struck = tree(self) if everybody else self.processes[:1]
        if strike in (Strike.STOP_ONE, Strike.STOP_ALL):
            for pid in struck:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(random.uniform(*_STOPPED_S))
            for pid in struck:
                os.kill(pid, signal.SIGCONT)
            return
        for pid in struck:
            kill_process(pid)
        if everybody:
            self.start(240)
        else:
            wait_until(lambda: len(self.processes) == 2, lambda: "the process that was killed is not back")
