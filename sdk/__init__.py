"""The SDK of adapterctl: train, version, evaluate, merge and deliver LoRA adapters.

::

    import sdk

    job = sdk.submit_training("docstring-writer", base="./SmolLM2-135M-Instruct", data="train.jsonl")
    version = job.wait().result()
    path = sdk.pull(version.ref)

The functions and nouns of this module are those of the default client, made from the environment on first use or by
`connect`; each looks it up when it is used. Classes are imported on first use, so that `import sdk` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sdk.default_client import OfDefaultClient, connect

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
        PromotionRefused,
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
    from sdk.nouns.sweeps import Sweep
    from sdk.objects import Evaluation, Job, MergedModel, Version

    _client = Client()
    adapters = _client.adapters
    aliases = _client.aliases
    approvals = _client.approvals
    audit = _client.audit
    bases = _client.bases
    compare = _client.compare
    datasets = _client.datasets
    decisions = _client.decisions
    diff = _client.diff
    evaluations = _client.evaluations
    generate = _client.generate
    get = _client.get
    job = _client.job
    jobs = _client.jobs
    lineage = _client.lineage
    plan = _client.plan
    plot = _client.plot
    policies = _client.policies
    preview = _client.preview
    promote = _client.promote
    pull = _client.pull
    push = _client.push
    quotas = _client.quotas
    report = _client.report
    retention = _client.retention
    rollback = _client.rollback
    search = _client.search
    set_alias = _client.set_alias
    signatures = _client.signatures
    statements = _client.statements
    submit_combine = _client.submit_combine
    submit_evaluation = _client.submit_evaluation
    submit_merge = _client.submit_merge
    submit_training = _client.submit_training
    sweep = _client.sweep
    sweeps = _client.sweeps
    tokens = _client.tokens
    versions = _client.versions
    workers = _client.workers

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
    "PromotionRefused",
    "QuotaExceeded",
    "RateLimited",
    "ReadOnly",
    "StaleAttempt",
    "Sweep",
    "TimedOut",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unreadable",
    "UnsupportedMediaType",
    "VerificationFailed",
    "Version",
    "adapters",
    "aliases",
    "approvals",
    "audit",
    "bases",
    "compare",
    "connect",
    "datasets",
    "decisions",
    "diff",
    "evaluations",
    "generate",
    "get",
    "job",
    "jobs",
    "lineage",
    "plan",
    "plot",
    "policies",
    "preview",
    "promote",
    "pull",
    "push",
    "quotas",
    "report",
    "retention",
    "rollback",
    "search",
    "set_alias",
    "signatures",
    "statements",
    "submit_combine",
    "submit_evaluation",
    "submit_merge",
    "submit_training",
    "sweep",
    "sweeps",
    "tokens",
    "versions",
    "workers",
]

#: The modules of the classes that are not errors.
_HOME_OF = {
    "Client": "sdk.client",
    "Evaluation": "sdk.objects",
    "Job": "sdk.objects",
    "MergedModel": "sdk.objects",
    "Sweep": "sdk.nouns.sweeps",
    "Version": "sdk.objects",
}


def __dir__() -> list[str]:
    return sorted(__all__)


# Hidden from type checkers, which would otherwise accept any name of this module.
if not TYPE_CHECKING:
    globals().update({name: OfDefaultClient(name) for name in __all__ if name.islower() and name != "connect"})

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(importlib.import_module(_HOME_OF.get(name, "sdk.errors")), name)
        raise AttributeError(f"module 'sdk' has no attribute {name!r}")
