"""The functions of the module `sdk`: each calls the method of the same name of the default client.

The client is made from the environment on first use, or by `connect`. Nothing is imported before a function is called.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

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
    from sdk.schemas.combination import CombineOptions
    from sdk.schemas.comparison import Comparison
    from sdk.schemas.data_audit import DataAudit
    from sdk.schemas.diff import Diff
    from sdk.schemas.evaluation import EvaluationOptions, MergeOptions
    from sdk.schemas.lineage import Direction, Lineage
    from sdk.schemas.planning import Plan, PlanMethod, Task
    from sdk.schemas.preview import Preview
    from sdk.schemas.search import SortKey, VersionBrief
    from sdk.schemas.training_options import PlanOptions, TrainingOptions
    from sdk.schemas.workers import QueueCapacity, WorkerView
    from sdk.submitting.given_sources import TrainingData

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


def _client() -> Client:
    return _default if _default is not None else connect()


def capacity() -> list[QueueCapacity]:
    """Return each queue as it is now: waiting and running jobs, and workers that could take them. See
    `Client.capacity`.
    """
    return _client().capacity()


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
    return _client().check_data(
        data,
        base=base,
        base_namespace=base_namespace,
        published=published,
        eval_data=eval_data,
        columns=columns,
        holdout=holdout,
        holdout_by=holdout_by,
        holdout_seed=holdout_seed,
        loss_on=loss_on,
        max_length=max_length,
        sample=sample,
        examples=examples,
    )


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
    return _client().compare(
        refs,
        metric=metric,
        data=data,
        by=by,
        examples=examples,
        detect=detect,
        scores_of=scores_of,
        base_namespace=base_namespace,
        published=published,
    )


def compat(
    ref: str | Path, *, engine: str, version: str | None = None, base: str | Path | None = None
) -> Compatibility:
    """Say whether an inference engine can serve a version as it is, and how. See `Client.compat`."""
    return _client().compat(ref, engine=engine, version=version, base=base)


def diff(a: str, b: str, *, weights: bool = True) -> Diff:
    """Return how two versions differ, weights included. See `Client.diff`."""
    return _client().diff(a, b, weights=weights)


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
    return _client().export(
        target,
        output,
        base=base,
        base_namespace=base_namespace,
        published=published,
        dtype=dtype,
        tokenizer_from=tokenizer_from,
        modelfile=modelfile,
        ollama_base=ollama_base,
    )


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
    return _client().export_plain(
        target,
        output,
        rank=rank,
        base=base,
        base_namespace=base_namespace,
        published=published,
        dtype=dtype,
    )


def get(ref: str) -> Version:
    """Return the version that a ref names now. See `Client.get`."""
    return _client().get(ref)


def job(job_id: str) -> Job[Result]:
    """Return a job by its id. See `Client.job`."""
    return _client().job(job_id)


def jobs(*, state: str | None = None, queue: str | None = None, limit: int = 50) -> list[Job[Result]]:
    """Return the last jobs, newest first. See `Client.jobs`."""
    return _client().jobs(state=state, queue=queue, limit=limit)


def lineage(
    of: str,
    *,
    direction: Direction = "both",
    depth: int = 8,
    base_namespace: str | None = None,
    published: bool = False,
) -> Lineage:
    """Return what a version was made from, and what was made from it. See `Client.lineage`."""
    return _client().lineage(of, direction=direction, depth=depth, base_namespace=base_namespace, published=published)


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
    return _client().plan(
        base,
        base_namespace=base_namespace,
        published=published,
        method=method,
        gpu=gpu,
        task=task,
        gradient_checkpointing=gradient_checkpointing,
        attention=attention,
        logit_chunk_tokens=logit_chunk_tokens,
        **spec,
    )


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
    return _client().preview(
        file,
        of=of,
        base=base,
        base_namespace=base_namespace,
        published=published,
        rows=rows,
        row=row,
        loss_on=loss_on,
        columns=columns,
        holdout=holdout,
        holdout_by=holdout_by,
        holdout_seed=holdout_seed,
        max_length=max_length,
        on_job=on_job,
    )


def promote(ref: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
    """Point an alias at the version that a ref names now. See `Client.promote`."""
    return _client().promote(ref, alias, expect=expect, reason=reason)


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
    return _client().pull(ref, to, offline=offline, frozen=frozen, base_name=base_name, verify_with=verify_with)


def push(path: str | Path, adapter: str, *, base: str | Path, **options: Unpack[PushKeywords]) -> Version:
    """Publish an adapter from a folder that PEFT wrote. See `Client.push`."""
    return _client().push(path, adapter, base=base, **options)


def rollback(adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
    """Point an alias back at what it named before its last move. See `Client.rollback`."""
    return _client().rollback(adapter, alias, expect=expect, reason=reason)


def search(
    filter: str = "",  # noqa: A002 - as the client calls it
    *,
    sort: SortKey = "-created",
    limit: int | None = None,
    scores_of: str | None = None,
) -> list[VersionBrief]:
    """Return the versions that match a filter. See `Client.search`."""
    return _client().search(filter, sort=sort, limit=limit, scores_of=scores_of)


def set_alias(
    adapter: str, alias: str, version: str | int, *, expect: str | int | None = None, reason: str = ""
) -> AliasView:
    """Point an alias at a version. See `Client.set_alias`."""
    return _client().set_alias(adapter, alias, version, expect=expect, reason=reason)


def submit_combine(
    adapter: str,
    parents: Mapping[str, float] | Iterable[tuple[str, float]],
    *,
    priority: int = 0,
    idempotency_key: str | None = None,
    **spec: Unpack[CombineOptions],
) -> Job[Version]:
    """Submit the weighted sum of versions over one base, as a version; returns at once. See `Client.submit_combine`."""
    return _client().submit_combine(adapter, parents, priority=priority, idempotency_key=idempotency_key, **spec)


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
    return _client().submit_evaluation(
        refs,
        data=data,
        base_namespace=base_namespace,
        published=published,
        priority=priority,
        idempotency_key=idempotency_key,
        only=only,
        again=again,
        **spec,
    )


def submit_merge(
    ref: str,
    *,
    register: str | None = None,
    priority: int = 0,
    idempotency_key: str | None = None,
    **spec: Unpack[MergeOptions],
) -> Job[MergedModel]:
    """Submit the merge of a version into its base; returns at once. See `Client.submit_merge`."""
    return _client().submit_merge(ref, register=register, priority=priority, idempotency_key=idempotency_key, **spec)


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
    return _client().submit_preview(
        file,
        of=of,
        base=base,
        base_namespace=base_namespace,
        published=published,
        rows=rows,
        row=row,
        loss_on=loss_on,
        columns=columns,
        holdout=holdout,
        holdout_by=holdout_by,
        holdout_seed=holdout_seed,
        max_length=max_length,
        priority=priority,
        idempotency_key=idempotency_key,
    )


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
    return _client().submit_training(
        adapter,
        base=base,
        base_namespace=base_namespace,
        published=published,
        parent=parent,
        like=like,
        data=data,
        eval_data=eval_data,
        checkpoint_every=checkpoint_every,
        from_checkpoint=from_checkpoint,
        priority=priority,
        timeout=timeout,
        device=device,
        memory=memory,
        idempotency_key=idempotency_key,
        **spec,
    )


def versions(adapter: str, *, archived: bool = False) -> list[Version]:
    """Return the ready versions of an adapter, newest first. See `Client.versions`."""
    return _client().versions(adapter, archived=archived)


def workers() -> list[WorkerView]:
    """Return the workers that have reported in the last week. See `Client.workers`."""
    return _client().workers()
