"""A stack's home: the folder that holds its parts, how many workers it has, and what `up` prints.

::

    supervisor.{lock,pid,log}   the process that keeps the parts running
    settings.json               how many workers, and what the gateway serves
    state.json                  what the supervisor last said about each part
    stack.json                  URL, admin token and services; only the owner can read it
    postgres/ valkey/ seaweedfs/ registry/ gateway/ worker-1/ …   each with its log, pid file, ports, secrets and data
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sdk.errors import Conflict
from sdk.stack.local_process import write_private
from sdk.stack.local_server import LocalServer
from sdk.stack.postgres import PostgresServer
from sdk.stack.programs import GatewayServer, RegistryServer, WorkerProcess
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer

_SETTINGS = "settings.json"


class Stack:
    """The parts that belong to one home. Two objects over the same home stand for the same processes."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.postgres = PostgresServer(PostgresServer.place_for(self.home))
        self.valkey = ValkeyServer(self.home / "valkey")
        self.seaweed = SeaweedServer(self.home / "seaweedfs")
        self.registry = RegistryServer(
            self.home / "registry", postgres=self.postgres, valkey=self.valkey, seaweed=self.seaweed
        )

    @property
    def exists(self) -> bool:
        """Whether there is a stack in this home."""
        return (self.home / _SETTINGS).exists()

    @property
    def servers(self) -> list[LocalServer]:
        """The servers that store data, in the order in which they start, and then the registry."""
        return [self.postgres, self.valkey, self.seaweed, self.registry]

    def worker(self, number: int) -> WorkerProcess:
        """A worker, counted from 1."""
        return WorkerProcess(self.home / f"worker-{number}", number, registry=self.registry, valkey=self.valkey)

    @property
    def known_workers(self) -> list[WorkerProcess]:
        """The workers that are wanted now, and those that once were."""
        found = {int(path.name.removeprefix("worker-")) for path in self.home.glob("worker-[0-9]*")}
        return [self.worker(number) for number in sorted(found | set(range(1, self.workers + 1)))]

    @property
    def workers(self) -> int:
        """How many workers are wanted."""
        return int(json.loads((self.home / _SETTINGS).read_text(encoding="utf-8"))["workers"])

    @property
    def served(self) -> tuple[str, ...]:
        """The refs and names that a gateway is to serve; none: there is to be no gateway."""
        return tuple(json.loads((self.home / _SETTINGS).read_text(encoding="utf-8")).get("serve", ()))

    @property
    def gateway(self) -> GatewayServer:
        """The gateway, which only runs if it is to serve something."""
        return GatewayServer(self.home / "gateway", self.served, registry=self.registry)

    @property
    def document_path(self) -> Path:
        """The file with the whole document, which only its owner can read."""
        return self.home / "stack.json"

    @property
    def printed(self) -> dict[str, Any]:
        """What `up` prints: the document with its file, and without the passwords of servers."""
        whole = self.document
        services = {name: without_password(url) for name, url in whole["services"].items()}
        gateway = {"gateway": whole["gateway"]} if "gateway" in whole else {}
        return {
            "url": whole["url"],
            "token": whole["token"],
            "file": str(self.document_path),
            "services": services,
            **gateway,
        }

    @property
    def document(self) -> dict[str, Any]:
        """How to reach the registry and its servers. Holds secrets."""
        return {
            "url": self.registry.url,
            "token": self.registry.tokens["admin"],
            "services": {
                "database_url": self.registry.database_url,
                "broker_url": self.valkey.url,
                "s3_endpoint_url": self.seaweed.url,
            },
            **({"gateway": {"url": self.gateway.url, "key": self.gateway.key}} if self.served else {}),
        }

    def make_folder(self) -> None:
        """Make the home. Raises Conflict for a folder that holds something else."""
        if not self.exists and self.home.exists() and not _is_empty(self.home):
            raise Conflict(
                f"{self.home} has other files in it; choose an empty or new folder with --home", param="home"
            )
        # PostgreSQL that root starts runs as another user, who must be able to reach its own folder. All else in the
        # home keeps others out by its own permissions.
        self.home.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)

    def settle(self, workers: int | None, serve: Sequence[str] | None = None) -> None:
        """Choose ports and secrets, once, and note how many workers are wanted, and what is to be served; None: as before, at first
        one worker and nothing.
        """
        taken: set[int] = set()
        for server in self.servers:
            server.choose_beside(taken)
            taken.update(server.ports)
        before = {"workers": self.workers, "serve": [*self.served]} if self.exists else None
        wanted = {
            **(before or {"workers": 1, "serve": []}),
            **({} if workers is None else {"workers": workers}),
            **({} if serve is None else {"serve": [*serve]}),
        }
        if wanted != before:
            write_private(self.home / _SETTINGS, json.dumps(wanted) + "\n")
        if self.served:
            self.gateway.choose_beside(taken)

    def publish(self) -> None:
        """Write the document into a file that only its owner can read."""
        write_private(self.document_path, json.dumps(self.document, indent=2) + "\n")


def without_password(url: str) -> str:
    """Return a URL as it may be shown.

    >>> without_password("redis://:secret@127.0.0.1:6379/0")
    'redis://:***@127.0.0.1:6379/0'
    """
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def _is_empty(home: Path) -> bool:
    # Locks don't count: of two commands that begin at the same time, the first may have made one.
    return home.is_dir() and all(path.suffix == ".lock" for path in home.iterdir())
