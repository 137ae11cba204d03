"""Every setting of a worker, read in one place. The registry's URL and token are the SDK's own settings."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from sdk.environment import Positive, Switch, read_settings
from sdk.errors import InvalidInput
from sdk.schemas.jobs import QueueName

LogLevel = Literal["INFO", "DEBUG", "WARNING"]

#: The existing queues; a worker listens to one or both.
QUEUES: tuple[QueueName, ...] = get_args(QueueName)
_REPOSITORY = re.compile(r"\*|[A-Za-z0-9._*-]+/[A-Za-z0-9._*-]+")
_VARIABLES = {
    "name": "ADAPTER_WORKER_NAME",
    "broker_url": "REGISTRY_BROKER_URL",
    "shared_paths": "ADAPTER_WORKER_SHARED_PATHS",
    "hub_repositories": "ADAPTER_WORKER_HUB_REPOSITORIES",
    "queues": "ADAPTER_WORKER_QUEUES",
    "grace_s": "ADAPTER_WORKER_GRACE_S",
    "warm": "ADAPTER_WORKER_WARM",
    "quantized_cache": "ADAPTER_WORKER_QUANTIZED_CACHE",
    "wordnet": "ADAPTER_WORKER_WORDNET",
    "log_level": "ADAPTER_WORKER_LOG_LEVEL",
    "log_format": "ADAPTER_WORKER_LOG_FORMAT",
}


def _redis_url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://")):
        raise ValueError("is not a redis:// or rediss:// URL; set it to one")
    return text


def _paths(text: str) -> tuple[str, ...]:
    return tuple(path for path in text.split(os.pathsep) if path)


def _repositories(text: str) -> tuple[str, ...]:
    found = tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())
    for pattern in found:
        if not _REPOSITORY.fullmatch(pattern):
            raise ValueError(
                f"has {pattern[:80]!a}, which is not a pattern of hub repositories; write org/name, org/*, or * for all, "
                "separated by commas"
            )
    return found


def parse_queues(text: str) -> tuple[QueueName, ...]:
    """Return the queues in a list with commas, in the order of `QUEUES`. Raises InvalidInput for an unknown one.

    >>> parse_queues("cpu,gpu")
    ('gpu', 'cpu')
    """
    chosen: Sequence[str] = [queue.strip() for queue in text.split(",") if queue.strip()]
    unknown = sorted(set(chosen) - set(QUEUES))
    if unknown or not chosen:
        raise InvalidInput(
            f"there is no queue {', '.join(unknown) or '(none)'}; choose from {', '.join(QUEUES)}", param="queue"
        )
    return tuple(queue for queue in QUEUES if queue in chosen)


def _queues(text: str) -> tuple[QueueName, ...]:
    try:
        return parse_queues(text)
    except InvalidInput as error:
        raise ValueError(f"is not a list of queues: {error.message}") from None


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker process runs with."""

    #: Its name in job lists.
    name: str
    #: `redis://…`, which may contain a password and is never shown; None: the worker polls the registry.
    broker_url: Annotated[str | None, AfterValidator(_redis_url)] = field(default=None, repr=False)
    #: Folders that clients see under the same path.
    shared_paths: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    #: Repositories of a model hub for which this node's hub token is used, with `*` for any text: `meta-llama/*`, or `*`.
    hub_repositories: Annotated[tuple[str, ...], BeforeValidator(_repositories)] = ()
    #: Which jobs it takes.
    queues: Annotated[tuple[QueueName, ...], BeforeValidator(_queues)] = QUEUES
    #: Pause between two requests for work without a broker, in seconds.
    ask_every_s: float = 2.0
    #: How long a training may take to write a checkpoint before its processes are killed; a worker that is told to end
    #: finishes everything within this time. In seconds.
    grace_s: Annotated[Positive, Field(lt=86_400)] = 30.0
    #: Whether a warm child waits with imported libraries, so that the next job begins sooner.
    warm: Switch = False
    #: Whether weights of bases in 4 bits are kept in the cache, so that the next attempt doesn't quantise them again.
    quantized_cache: Switch = True
    #: The folder of WordNet's files, in which evaluations by `meteor` look synonyms up; None: there is none.
    wordnet: Path | None = None
    log_level: LogLevel = "INFO"
    log_format: Literal["text", "json"] = "text"

    @classmethod
    def from_env(cls) -> WorkerSettings:
        """Read the settings. Raises InvalidInput with a sentence for each variable that has a bad value."""
        # A worker started by a user has a name of its own, and time to prepare a warm child.
        usual = {"ADAPTER_WORKER_NAME": f"{socket.gethostname()}-{os.getpid()}", "ADAPTER_WORKER_WARM": "1"}
        given = {variable: text for variable, text in os.environ.items() if text}
        return read_settings(cls, _VARIABLES, usual | given, refused=InvalidInput)

    def may_use_hub_token(self, repository: str) -> bool:
        """Whether this node's hub token may be used to fetch a repository: anybody may request any.

        >>> settings = WorkerSettings("gpu-1", hub_repositories=("meta-llama/*", "org/base"))
        >>> [settings.may_use_hub_token(name) for name in ("meta-llama/x", "org/base", "org/other", "meta-llama/x/y")]
        [True, True, False, False]
        """
        if "*" in self.hub_repositories:
            return True
        parts = repository.split("/")
        # Part by part, since `*` would otherwise match a "/" as well.
        return any(
            len(parts) == len(wanted) and all(fnmatchcase(*pair) for pair in zip(parts, wanted, strict=True))
            for wanted in (pattern.split("/") for pattern in self.hub_repositories)
        )
