"""The SDK of adapterctl: train, version, evaluate, merge and deliver LoRA adapters.

::

    import sdk

    job = sdk.submit_training("docstring-writer", base="./SmolLM2-135M-Instruct", data="train.jsonl")
    version = job.wait().result()
    path = sdk.pull(version.ref)

The functions of this module work on the default client, made from the environment on first use or by `connect`.
Names are imported on first use, so that `import sdk` costs next to nothing.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.errors import (
        AdapterctlError,
        Conflict,
        Incompatible,
        InvalidBase,
        InvalidData,
        InvalidInput,
        InvalidName,
        InvalidRef,
        InvalidTargets,
        JobCancelled,
        JobFailed,
        NotAllowed,
        NotFound,
        QuotaExceeded,
        RateLimited,
        ReadOnly,
        StaleAttempt,
        TimedOut,
        TooLarge,
        Unauthenticated,
        Unavailable,
        Unreadable,
        UnsupportedMediaType,
        VerificationFailed,
    )
    from sdk.objects import Evaluation, Job, MergedModel, Version

_HOME_OF = {
    "Client": "sdk.client",
    **dict.fromkeys(("Evaluation", "Job", "MergedModel", "Version"), "sdk.objects"),
    **dict.fromkeys(
        (
            "AdapterctlError",
            "Conflict",
            "Incompatible",
            "InvalidBase",
            "InvalidData",
            "InvalidInput",
            "InvalidName",
            "InvalidRef",
            "InvalidTargets",
            "JobCancelled",
            "JobFailed",
            "NotAllowed",
            "NotFound",
            "QuotaExceeded",
            "RateLimited",
            "ReadOnly",
            "StaleAttempt",
            "TimedOut",
            "TooLarge",
            "Unauthenticated",
            "Unavailable",
            "Unreadable",
            "UnsupportedMediaType",
            "VerificationFailed",
        ),
        "sdk.errors",
    ),
}

#: Methods of the client that are also functions of this module, on the default client.
_ON_DEFAULT_CLIENT = (
    "capacity",
    "diff",
    "get",
    "job",
    "jobs",
    "lineage",
    "promote",
    "pull",
    "push",
    "rollback",
    "search",
    "set_alias",
    "submit_evaluation",
    "submit_merge",
    "submit_training",
    "versions",
    "workers",
)

__all__ = [
    "AdapterctlError",
    "Client",
    "Conflict",
    "Evaluation",
    "Incompatible",
    "InvalidBase",
    "InvalidData",
    "InvalidInput",
    "InvalidName",
    "InvalidRef",
    "InvalidTargets",
    "Job",
    "JobCancelled",
    "JobFailed",
    "MergedModel",
    "NotAllowed",
    "NotFound",
    "QuotaExceeded",
    "RateLimited",
    "ReadOnly",
    "StaleAttempt",
    "TimedOut",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unreadable",
    "UnsupportedMediaType",
    "Version",
    "VerificationFailed",
    "connect",
    *_ON_DEFAULT_CLIENT,
]

_lock = threading.Lock()
_default: Client | None = None


def connect(url: str | None = None, token: str | None = None, *, insecure: bool = False) -> Client:
    """Return a client of the registry at `url` and make it the default one.

    Without arguments: `ADAPTERCTL_URL` and `ADAPTERCTL_TOKEN`, then the profile, then `local:~/.adapterctl`. Plain http to
    another machine is refused, unless `insecure`, `ADAPTERCTL_INSECURE=1` or the profile accepts it.
    """
    from sdk.client import Client

    global _default
    client = Client(url, token, insecure=insecure)
    with _lock:
        _default = client
    return client


def _default_client() -> Client:
    return _default if _default is not None else connect()


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    if name in _ON_DEFAULT_CLIENT:
        return getattr(_default_client(), name)
    raise AttributeError(f"module 'sdk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
