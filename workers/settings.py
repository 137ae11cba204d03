"""Every setting of a worker, read in one place. The registry's URL and token are the SDK's own settings."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, cast, get_args

from sdk.errors import InvalidInput
from sdk.schemas.jobs import QueueName

LogFormat = Literal["text", "json"]

#: The queues that there are; a worker listens to one or both.
QUEUES: tuple[QueueName, ...] = get_args(QueueName)
_GRACE_S = 30.0
_REPOSITORY = re.compile(r"\*|[A-Za-z0-9._*-]+/[A-Za-z0-9._*-]+")


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker process runs with."""

    #: How it is called in job lists.
    name: str
    #: `redis://…`, which may hold a password and is never shown; None: the worker asks by itself.
    broker_url: str | None = field(default=None, repr=False)
    #: Folders that clients see under the same path.
    shared_paths: tuple[str, ...] = ()
    #: Repositories of a model hub for which this node's hub token is used, with `*` for any text: `meta-llama/*`, or `*`.
    hub_repositories: tuple[str, ...] = ()
    #: Which jobs it takes.
    queues: tuple[QueueName, ...] = QUEUES
    #: Pause between two questions for work without a broker, in seconds.
    ask_every_s: float = 2.0
    #: What a training gets to write a checkpoint before its processes are killed; a worker that is told to end needs no
    #: longer than this for all that it has to do. In seconds.
    grace_s: float = _GRACE_S
    #: Whether a warm child waits, its libraries imported, so that the next job begins sooner.
    warm: bool = False
    log_level: str = "INFO"
    log_format: LogFormat = "text"

    @classmethod
    def from_env(cls) -> WorkerSettings:
        """Read the settings. Raises InvalidInput that names the variable."""
        broker = os.environ.get("REGISTRY_BROKER_URL") or None
        if broker is not None and not broker.startswith(("redis://", "rediss://")):
            raise InvalidInput(
                "REGISTRY_BROKER_URL is no redis:// or rediss:// URL; set it to one", param="REGISTRY_BROKER_URL"
            )
        shared = os.environ.get("ADAPTER_WORKER_SHARED_PATHS", "")
        return cls(
            name=os.environ.get("ADAPTER_WORKER_NAME") or f"{socket.gethostname()}-{os.getpid()}",
            broker_url=broker,
            shared_paths=tuple(path for path in shared.split(os.pathsep) if path),
            hub_repositories=_repositories(os.environ.get("ADAPTER_WORKER_HUB_REPOSITORIES", "")),
            queues=parse_queues(os.environ.get("ADAPTER_WORKER_QUEUES") or ",".join(QUEUES)),
            grace_s=_seconds("ADAPTER_WORKER_GRACE_S", _GRACE_S),
            warm=_one_of("ADAPTER_WORKER_WARM", ("1", "0")) == "1",
            log_level=_one_of("ADAPTER_WORKER_LOG_LEVEL", ("INFO", "DEBUG", "WARNING")),
            log_format=cast("LogFormat", _one_of("ADAPTER_WORKER_LOG_FORMAT", get_args(LogFormat))),
        )

    def may_use_hub_token(self, repository: str) -> bool:
        """Tell whether this node's hub token may be used to fetch a repository: anybody may ask for any.

        >>> settings = WorkerSettings("gpu-1", hub_repositories=("meta-llama/*", "org/base"))
        >>> [settings.may_use_hub_token(name) for name in ("meta-llama/x", "org/base", "org/other", "meta-llama/x/y")]
        [True, True, False, False]
        """
        if "*" in self.hub_repositories:
            return True
        parts = repository.split("/")
        # Part by part, since `*` would else mean a "/" as well.
        return any(
            len(parts) == len(wanted) and all(fnmatchcase(*pair) for pair in zip(parts, wanted, strict=True))
            for wanted in (pattern.split("/") for pattern in self.hub_repositories)
        )


def parse_queues(text: str) -> tuple[QueueName, ...]:
    """Return the queues in a list with commas, in the order of `QUEUES`. Raises InvalidInput for an unknown one.

    >>> parse_queues("cpu,gpu")
    ('gpu', 'cpu')
    """
    chosen: Sequence[str] = [queue.strip() for queue in text.split(",") if queue.strip()]
    unknown = sorted(set(chosen) - set(QUEUES))
    if unknown or not chosen:
        raise InvalidInput(
            f"there is no queue {', '.join(unknown) or '(none)'}; choose among {', '.join(QUEUES)}", param="queue"
        )
    return tuple(queue for queue in QUEUES if queue in chosen)


def _repositories(text: str) -> tuple[str, ...]:
    found = tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())
    for pattern in found:
        if not _REPOSITORY.fullmatch(pattern):
            raise InvalidInput(
                f"ADAPTER_WORKER_HUB_REPOSITORIES has {pattern[:80]!a}, which names no repositories of a model hub; write "
                "org/name, org/*, or * for all, separated by commas",
                param="ADAPTER_WORKER_HUB_REPOSITORIES",
            )
    return found


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 86_400:
        raise InvalidInput(f"{name} is no number of seconds above 0; set it to one, such as {default:g}", param=name)
    return value


def _one_of(name: str, choices: Sequence[str]) -> str:
    """Return what a variable says, or the first of the choices where it says nothing."""
    text = os.environ.get(name) or choices[0]
    if text not in choices:
        raise InvalidInput(f"{name} is none of {', '.join(choices)}; set it to one of them", param=name)
    return text
