# mypy: disable-error-code="empty-body"
"""The functions of the module `sdk`: each calls the method of the same name of the default client.

The client is made from the environment on first use, or by `connect`. Nothing is imported before a function is called.
"""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Literal, Unpack

    from sdk.client import Client
    from sdk.exporting.running import Exported, ExportedLora
    from sdk.lora.compatibility import Compatibility
    from sdk.objects import Evaluation, Job, MergedModel, Result, Version
    from sdk.pushing.pusher import PushKeywords
    from sdk.schemas.aliases import AliasView
    from sdk.schemas.catalog import SortKey, VersionBrief
    from sdk.schemas.combination import CombineOptions
    from sdk.schemas.data_audit import DataAudit
    from sdk.schemas.diff import Diff
    from sdk.schemas.evaluation import EvaluationOptions, MergeOptions
    from sdk.schemas.lineage import Direction, Lineage
    from sdk.schemas.planning import Plan, PlanMethod, Task
    from sdk.schemas.preview import Preview
    from sdk.schemas.scores import Comparison
    from sdk.schemas.training_keywords import PlanOptions, TrainingOptions
    from sdk.schemas.work import QueueCapacity, WorkerView
    from sdk.submitting.given_data import TrainingData

F = TypeVar("F", bound="Callable[..., Any]")

_lock = threading.Lock()
_default: Client | None = None


def connect(url: str | None = None, token: str | None = None, *, insecure: bool = False) -> Client:
    """Return a client of the registry at `url` and make it the default one.

    Without arguments: `ADAPTERCTL_URL` and `ADAPTERCTL_TOKEN`, then the profile, then `local:~/.adapterctl`. Plain http
    to another machine is refused, unless `insecure`, `ADAPTERCTL_INSECURE=1` or the profile accepts it.
    """
    from sdk.client import Client

    global _default
    client = Client(url, token, insecure=insecure)
    with _lock:
        _default = client
    return client


def _of_the_client(declared: F) -> F:
    """Return a function with this signature that calls the method of the same name."""

    @wraps(declared)
    def call(*args: Any, **keywords: Any) -> Any:
        return getattr(_default or connect(), declared.__name__)(*args, **keywords)

    return cast("F", call)


@_of_the_client
def capacity() -> list[QueueCapacity]:
    """Return each queue as it is now: waiting and running jobs, and workers that could take them. See
    `Client.capacity`.
    """


@_of_the_client
def check_data(
    data: str | Path | Sequence[str | Path],
    *,
    base: str | Path | None = None,
    base_namespace: str | None = None,
    published: bool = False,
    eval_data: str | Path | None = None,
    columns: str | None = None,
    holdout: float | None = None,
    holdout_by: str | None = None,
    holdout_seed: int | None = None,
    loss_on: Literal["completion", "assistant", "all"] | None = None,
    max_length: int | None = None,
    sample: int | None = None,
    examples: int = 5,
) -> DataAudit:
    """Return what is wrong with rows before a training; files need no registry. See `Client.check_data`."""


@_of_the_client
def compare(
    refs: Sequence[str],
    *,
    metric: str | None = None,
    data: str | Path | None = None,
    by: str | None = None,
    examples: int = 0,
    detect: float | None = None,
    scores_of: str | None = None,
    base_namespace: str | None = None,
    published: bool = False,
) -> Comparison:
    """Say which of several versions and bare bases scores better on the same rows. See `Client.compare`."""


@_of_the_client
def compat(
    ref: str | Path, *, engine: str, version: str | None = None, base: str | Path | None = None
) -> Compatibility:
    """Say whether an inference engine can serve a version as it is, and how. See `Client.compat`."""


@_of_the_client
def diff(a: str, b: str, *, weights: bool = True) -> Diff:
    """Return how two versions differ, weights included. See `Client.diff`."""


@_of_the_client
def export(
    target: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    base_namespace: str | None = None,
    published: bool = False,
    dtype: Literal["f32", "f16", "bf16"] | None = None,
    tokenizer_from: str | Path | None = None,
    modelfile: bool = False,
    ollama_base: str | None = None,
) -> Exported:
    """Write an adapter, or a merged model, as a GGUF file. See `Client.export`."""


@_of_the_client
def export_plain(
    target: str | Path,
    output: str | Path,
    *,
    rank: int | None = None,
    base: str | Path | None = None,
    base_namespace: str | None = None,
    published: bool = False,
    dtype: Literal["f32", "f16", "bf16"] | None = None,
) -> ExportedLora:
    """Write an adapter as a plain LoRA, with one rank and one α. See `Client.export_plain`."""


@_of_the_client
def get(ref: str) -> Version:
    """Return the version that a ref names now. See `Client.get`."""


@_of_the_client
def job(job_id: str) -> Job[Result]:
    """Return a job by its id. See `Client.job`."""


@_of_the_client
def jobs(*, state: str | None = None, queue: str | None = None, limit: int = 50) -> list[Job[Result]]:
    """Return the last jobs, newest first. See `Client.jobs`."""


@_of_the_client
def lineage(
    of: str,
    *,
    direction: Direction = "both",
    depth: int = 8,
    base_namespace: str | None = None,
    published: bool = False,
) -> Lineage:
    """Return what a version was made from, and what was made from it. See `Client.lineage`."""


@_of_the_client
def plan(
    base: str | Path,
    *,
    base_namespace: str | None = None,
    published: bool = False,
    method: PlanMethod | None = None,
    gpu: str | None = None,
    task: Task | None = None,
    gradient_checkpointing: bool | None = None,
    attention: Literal["sdpa", "flash", "eager"] = "sdpa",
    logit_chunk_tokens: int | None = None,
    **spec: Unpack[PlanOptions],
) -> Plan:
    """Return what a training over a base takes, and what to choose. See `Client.plan`."""


@_of_the_client
def preview(
    file: str | Path | None = None,
    *,
    of: str | None = None,
    base: str | Path | None = None,
    base_namespace: str | None = None,
    published: bool = False,
    rows: int = 3,
    row: int | None = None,
    loss_on: Literal["completion", "assistant", "all"] | None = None,
    columns: str | None = None,
    holdout: float | None = None,
    holdout_by: str | None = None,
    holdout_seed: int | None = None,
    max_length: int | None = None,
    on_job: Callable[[Job[Preview]], object] | None = None,
) -> Preview:
    """Return what a training would learn from rows, or what it has learnt. See `Client.preview`."""


@_of_the_client
def promote(ref: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
    """Point an alias at the version that a ref names now. See `Client.promote`."""


@_of_the_client
def pull(
    ref: str,
    to: str | Path | None = None,
    *,
    offline: bool = False,
    frozen: bool = False,
    base_name: str | None = None,
    verify_with: str | Path | None = None,
) -> Path:
    """Fetch a version and return its folder, which PEFT and vLLM load as it is. See `Client.pull`."""


@_of_the_client
def push(path: str | Path, adapter: str, *, base: str | Path, **options: Unpack[PushKeywords]) -> Version:
    """Publish an adapter from a folder that PEFT wrote. See `Client.push`."""


@_of_the_client
def rollback(adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
    """Point an alias back at what it named before its last move. See `Client.rollback`."""


@_of_the_client
def search(
    filter: str = "",  # noqa: A002 - as the client calls it
    *,
    sort: SortKey = "-created",
    limit: int | None = None,
    scores_of: str | None = None,
) -> list[VersionBrief]:
    """Return the versions that match a filter. See `Client.search`."""


@_of_the_client
def set_alias(
    adapter: str, alias: str, version: str | int, *, expect: str | int | None = None, reason: str = ""
) -> AliasView:
    """Point an alias at a version. See `Client.set_alias`."""


@_of_the_client
def submit_combine(
    adapter: str,
    parents: Mapping[str, float] | Iterable[tuple[str, float]],
    *,
    priority: int = 0,
    idempotency_key: str | None = None,
    **spec: Unpack[CombineOptions],
) -> Job[Version]:
    """Submit the weighted sum of versions over one base, as a version; returns at once. See `Client.submit_combine`."""


@_of_the_client
def submit_evaluation(
    refs: str | Iterable[str],
    *,
    data: str | Path,
    base_namespace: str | None = None,
    published: bool = False,
    priority: int = 0,
    idempotency_key: str | None = None,
    only: bool = False,
    again: bool = False,
    **spec: Unpack[EvaluationOptions],
) -> Job[list[Evaluation]]:
    """Submit an evaluation of versions and bare bases on the same rows; returns at once. See
    `Client.submit_evaluation`.
    """


@_of_the_client
def submit_merge(
    ref: str,
    *,
    register: str | None = None,
    priority: int = 0,
    idempotency_key: str | None = None,
    **spec: Unpack[MergeOptions],
) -> Job[MergedModel]:
    """Submit the merge of a version into its base; returns at once. See `Client.submit_merge`."""


@_of_the_client
def submit_preview(
    file: str | Path | None = None,
    *,
    of: str | None = None,
    base: str | Path | None = None,
    base_namespace: str | None = None,
    published: bool = False,
    rows: int = 3,
    row: int | None = None,
    loss_on: Literal["completion", "assistant", "all"] | None = None,
    columns: str | None = None,
    holdout: float | None = None,
    holdout_by: str | None = None,
    holdout_seed: int | None = None,
    max_length: int | None = None,
    priority: int = 0,
    idempotency_key: str | None = None,
) -> Job[Preview]:
    """Have a worker do what `preview` does; returns at once. See `Client.submit_preview`."""


@_of_the_client
def submit_training(
    adapter: str,
    *,
    base: str | Path | None = None,
    base_namespace: str | None = None,
    published: bool = False,
    parent: str | None = None,
    like: str | None = None,
    data: TrainingData | None = None,
    eval_data: str | Path | None = None,
    checkpoint_every: str | None = None,
    from_checkpoint: str | None = None,
    priority: int = 0,
    timeout: float | str | None = None,
    device: Literal["any", "cuda"] | None = None,
    memory: int | None = None,
    idempotency_key: str | None = None,
    **spec: Unpack[TrainingOptions],
) -> Job[Version]:
    """Submit a training and return at once. See `Client.submit_training`."""


@_of_the_client
def versions(adapter: str, *, archived: bool = False) -> list[Version]:
    """Return the ready versions of an adapter, newest first. See `Client.versions`."""


@_of_the_client
def workers() -> list[WorkerView]:
    """Return the workers that have reported in the last week. See `Client.workers`."""
