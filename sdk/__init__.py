"""The SDK of adapterctl: train, version, evaluate, merge and deliver LoRA adapters.

::

    import sdk

    job = sdk.submit_training("docstring-writer", base="./SmolLM2-135M-Instruct", data="train.jsonl")
    version = job.wait().result()
    path = sdk.pull(version.ref)

The functions of this module work on the default client, made from the environment on first use or by `connect`; each
looks it up when it is called. Classes are imported on first use, so that `import sdk` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sdk.default_client import (
    capacity,
    check_data,
    compare,
    compat,
    connect,
    diff,
    export,
    export_plain,
    get,
    job,
    jobs,
    lineage,
    plan,
    preview,
    promote,
    pull,
    push,
    rollback,
    search,
    set_alias,
    submit_combine,
    submit_evaluation,
    submit_merge,
    submit_preview,
    submit_training,
    versions,
    workers,
)

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.errors import (
        AdapterctlError,
        Conflict,
        DoesNotFit,
        Incompatible,
        InvalidBase,
        InvalidData,
        InvalidInput,
        InvalidName,
        InvalidRef,
        InvalidTargets,
        JobCancelled,
        JobFailed,
        Misdirected,
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

__all__ = [
    "AdapterctlError",
    "Client",
    "Conflict",
    "DoesNotFit",
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
    "Misdirected",
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
    "Version",
    "capacity",
    "check_data",
    "compare",
    "compat",
    "connect",
    "diff",
    "export",
    "export_plain",
    "get",
    "job",
    "jobs",
    "lineage",
    "plan",
    "preview",
    "promote",
    "pull",
    "push",
    "rollback",
    "search",
    "set_alias",
    "submit_combine",
    "submit_evaluation",
    "submit_merge",
    "submit_preview",
    "submit_training",
    "versions",
    "workers",
]

#: The modules of the classes that are not errors.
_HOME_OF = {
    "Client": "sdk.client",
    "Evaluation": "sdk.objects",
    "Job": "sdk.objects",
    "MergedModel": "sdk.objects",
    "Version": "sdk.objects",
}


def __dir__() -> list[str]:
    return sorted(__all__)


# Hidden from type checkers, which would otherwise accept any name of this module.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(importlib.import_module(_HOME_OF.get(name, "sdk.errors")), name)
        raise AttributeError(f"module 'sdk' has no attribute {name!r}")
