"""Every setting of a worker, read in one place. The registry's URL and token are the SDK's own settings."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field

from sdk.errors import InvalidInput


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker process runs with."""

    #: How it is called in job lists.
    name: str
    #: `redis://…`, which may hold a password and is never shown; None: the worker asks by itself.
    broker_url: str | None = field(default=None, repr=False)
    #: Folders that clients see under the same path.
    shared_paths: tuple[str, ...] = ()
    #: Pause between two questions for work without a broker, in seconds.
    ask_every_s: float = 2.0

    @classmethod
    def from_env(cls, *, name: str | None = None) -> WorkerSettings:
        """Read the settings. Raises InvalidInput for a broker URL of another kind."""
        broker = os.environ.get("REGISTRY_BROKER_URL") or None
        if broker is not None and not broker.startswith(("redis://", "rediss://")):
            raise InvalidInput(
                "REGISTRY_BROKER_URL is no redis:// or rediss:// URL; set it to one", param="REGISTRY_BROKER_URL"
            )
        shared = os.environ.get("ADAPTER_WORKER_SHARED_PATHS", "")
        return cls(
            name=name or os.environ.get("ADAPTER_WORKER_NAME") or f"{socket.gethostname()}-{os.getpid()}",
            broker_url=broker,
            shared_paths=tuple(path for path in shared.split(os.pathsep) if path),
        )
