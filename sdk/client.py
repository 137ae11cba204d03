"""The client: every operation on a registry, over whichever transport.

>>> import tempfile
>>> client = Client(f"local:{tempfile.mkdtemp()}")
>>> client.adapters()
[]
>>> client.close()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from sdk.allowed_locations import Reach
from sdk.api import access, aliases, artifacts, bases, datasets, evaluations, jobs, versions
from sdk.api.transport import Transport
from sdk.config import Config, user_path
from sdk.config import load as load_config
from sdk.examining.comparing import compare, compare_scores
from sdk.examining.engine_compatibility import facts_of, judged
from sdk.examining.evaluation_rows import row_frame, write_row_parquet
from sdk.examining.label_counts import LabelCounts, count_labels
from sdk.examining.planning import plan_training
from sdk.examining.probe_replay import replay_version
from sdk.examining.row_previews import preview_rows, submit_preview
from sdk.exporting.cards import card_of
from sdk.exporting.running import Exported, ExportedLora
from sdk.exporting.targets import export_gguf, export_plain
from sdk.formats.manifest import HasFiles
from sdk.names import check_alias, check_name, check_number, parse_ref
from sdk.objects import Evaluation, Job, MergedModel, Result, Version
from sdk.pulling.api_source import ApiSource
from sdk.pulling.cache import Cache
from sdk.pulling.cached_file import fetch_rows, pull_dataset
from sdk.pulling.filling import OnTransfer
from sdk.pulling.http import HttpClient
from sdk.pulling.pins import require_pinned
from sdk.pulling.puller import Pulled, Puller
from sdk.pushing.given_base import given_base, given_base_if_any, require_one
from sdk.pushing.import_folders import Imported, push_tree
from sdk.pushing.pusher import Pusher, PushKeywords, PushOptions, PushReport
from sdk.pushing.signatures import check_signing_key, sign_manifest, sign_version
from sdk.schemas.access import (
    AuditView,
    NamespaceRevocation,
    NewToken,
    QuotaLimits,
    QuotaView,
    RevocationView,
    TokenView,
    Whoami,
)
from sdk.schemas.aliases import (
    AliasMove,
    AliasMoveView,
    AliasRemoval,
    AliasRollback,
    AliasView,
    Protection,
    ProtectionView,
)
from sdk.schemas.artifacts import DatasetView, SignatureView, SignedManifest, Transfer
from sdk.schemas.catalog import (
    AdapterView,
    Annotation,
    BaseFix,
    BaseRegistration,
    BaseSelector,
    BaseView,
    Published,
    SortKey,
    VersionBrief,
)
from sdk.schemas.combination import CombineOptions, CombineSpec
from sdk.schemas.data_audit import DataAudit
from sdk.schemas.diff import Diff
from sdk.schemas.evaluation import EvaluationOptions, EvaluationSpec, MergeOptions, MergeSpec, RowScore
from sdk.schemas.events import Event
from sdk.schemas.jobs import (
    AttemptView,
    CheckpointPublication,
    CheckpointView,
    JobView,
)
from sdk.schemas.lineage import Direction, Lineage
from sdk.schemas.manifest import Manifest
from sdk.schemas.planning import DeviceForecasts, Plan, PlanMethod, Task
from sdk.schemas.preview import Preview
from sdk.schemas.probe import ProbeReplay, VersionNorms
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView
from sdk.schemas.scores import Comparison, SlicedScores
from sdk.schemas.training_keywords import PlanOptions, TrainingOptions
from sdk.schemas.work import QueueCapacity, WorkerView
from sdk.submitting.data_check import check_rows_of
from sdk.submitting.data_preview import preview_asked
from sdk.submitting.given_data import TrainingData
from sdk.submitting.job_options import JobOptions, checkpoint_policy, checkpoint_ref, job_options
from sdk.submitting.submitter import JobSubmitter
from sdk.validation import (
    alias_change,
    build,
    check_data,
    check_data_name,
    require_numbered,
    token_request,
    version_move,
)

if TYPE_CHECKING:
    import pandas

    from sdk.lora.compatibility import Compatibility

T = TypeVar("T")


class Client:
    """A connection to one registry. Cheap to create; nothing is sent before the first call."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        cache: Path | None = None,
        on_transfer: OnTransfer | None = None,
        insecure: bool = False,
        transport: Transport | None = None,
    ) -> None:
        #: How requests reach the registry; a given `transport` already knows its registry.
        self.transport = transport or Transport(load_config(url, token, insecure=insecure))
        self.cache = Cache(cache)
        #: Connections to the storage, reused from one file to the next.
        self.http = HttpClient(self.reach)
        self._on_transfer = on_transfer
        self._pusher = Pusher(self.transport, self.cache, on_transfer)
        self._submitter = JobSubmitter(self.transport, self._pusher)
        self._puller = Puller(
            ApiSource(self.transport), self.cache, self.config.url, http=self.http, on_transfer=on_transfer
        )

    @property
    def config(self) -> Config:
        """Which registry this is, and how it is reached."""
        return self.transport.config

    @property
    def reach(self) -> Reach:
        """The locations that the registry may give for files."""
        return self.config.reach

    def call(self, method: str, path: str, reply: type[T], **given: Any) -> T:
        """Call a route for which there is no method; see `sdk.api` for the routes as typed functions."""
        return self.transport.call(method, path, reply, **given)

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()
        self.http.close()

    # Bases and datasets.

    def add_base(
        self,
        folder: str | Path,
        *,
        id: str | None = None,  # noqa: A002
        upload: bool = False,
        namespace: str | None = None,
    ) -> BaseView:
        """Register the base in a folder; with `upload` its files are sent to the registry's storage, for workers
        elsewhere.

        It belongs to `namespace` ("-": names without one, "*": all). By default it is for all if this client is an
        admin of all namespaces, else for names without one, or for the first namespace in which it may write. Raises
        NotFound, InvalidBase for a folder without safetensors weights, InvalidInput for a link that leads out of it,
        NotAllowed.
        """
        return self._pusher.register_scanned(
            self._pusher.scan_base(folder, base_id=id), upload=upload, namespace=namespace
        )

    def register_base(self, registration: BaseRegistration) -> BaseView:
        """Register a base that was already scanned."""
        return self._pusher.register_base(registration)

    def bases(self) -> list[BaseView]:
        """The bases that this client may use, newest first."""
        return list(bases.iterate(self.transport))

    def base(
        self,
        name: str,
        *,
        namespace: str | None = None,
        base_namespace: str | None = None,
        published: bool = False,
    ) -> BaseView:
        """A base by id or fingerprint, with its config: what the name means in `namespace`, which also has the published
        ones, or in all that may be seen.

        With `base_namespace` it is that namespace's own base of the name, with `published` the one that is published for
        all. Raises NotFound, InvalidInput if it means different bases.
        """
        return given_base(name, base_namespace, published).find(self.transport, namespace=namespace)

    def remove_base(self, name: str, *, namespace: str | None = None) -> None:
        """Remove a base from a namespace, by id or fingerprint; its versions stay. Raises NotFound, NotAllowed."""
        bases.remove(self.transport, build(BaseSelector, name=name, namespace=namespace))

    def fix_base(
        self,
        name: str,
        *,
        namespace: str | None = None,
        id: str | None = None,  # noqa: A002
        location: str | None = None,
        forget_files: bool = False,
    ) -> BaseView:
        """Correct a base's id or location ("": none) in a namespace, or let its files be sent again.

        Raises NotFound, NotAllowed, InvalidInput.
        """
        change = build(BaseFix, name=name, namespace=namespace, id=id, location=location, forget_files=forget_files)
        return bases.fix(self.transport, change)

    def add_data(
        self,
        path: str | Path,
        *,
        namespace: str | None = None,
        name: str | None = None,
        columns: str | None = None,
    ) -> DatasetView:
        """Check and upload a dataset of JSONL, JSON, CSV or Parquet, for the readers of a namespace ("-": none).

        `namespace` defaults to the first in which this client may write, `name` to the file's name. If other rows have
        that name there, it gets the next number; the same rows keep theirs. `columns`, such as
        "prompt=question,completion=answer", says which columns are which keys of a row wherever the dataset is used,
        unless others are given there. Raises NotFound, InvalidData with the bad lines, InvalidName for a name that
        would be read as a digest, a number or a path, NotAllowed.
        """
        data = check_data(path, columns=columns)
        return self._pusher.send_data(data, namespace, check_data_name(data.name if name is None else name))

    def datasets(self) -> list[DatasetView]:
        """The datasets that this client may use, newest first."""
        return list(datasets.iterate(self.transport))

    def dataset(self, name: str, *, namespace: str | None = None) -> DatasetView:
        """Return a dataset by its digest or the first 12 digits of it, by `NAME@v2`, or by name: the newest so called.

        A name is first looked up in `namespace`. Raises NotFound, InvalidInput if several datasets fit.
        """
        return datasets.get(self.transport, name, namespace=namespace)

    def remove_data(self, name: str, *, namespace: str | None = None) -> None:
        """Remove a dataset, by digest or name as in `dataset`; versions trained on it still name it.

        It is removed from `namespace`, whose dataset is then meant by a name, or else from all where this client may
        write. Raises NotFound, InvalidInput for a name that is used in several namespaces.
        """
        datasets.remove(self.transport, name, namespace=namespace)

    def pull_data(
        self, name: str, output: str | Path, *, namespace: str | None = None, overwrite: bool = False
    ) -> DatasetView:
        """Write the rows of a dataset, by digest or name as in `dataset`, to the file `output`, byte for byte.

        With `namespace`, only what that namespace has is meant.

        They are hashed while they are fetched, and the file is there complete or not at all; an interrupted pull
        continues where it broke. Raises NotFound, Conflict if `output` exists and `overwrite` isn't given, InvalidInput
        if it is a folder, VerificationFailed.
        """
        return pull_dataset(
            self.transport,
            name,
            user_path(output),
            namespace=namespace,
            overwrite=overwrite,
            http=self.http,
            on_transfer=self._on_transfer,
        )

    def locate_data(self, name: str, *, namespace: str | None = None) -> Transfer:
        """Return the location of a dataset's file, by digest or name; with `namespace`, only of one that it has.

        Raises NotFound, InvalidInput for a name that is used in several namespaces, VerificationFailed if the registry
        returns another digest than was asked for.
        """
        return datasets.locate(self.transport, name, namespace=namespace)

    def preview(
        self,
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
        """What a training over `base` would learn from the first `rows` rows of a file or a registered dataset.

        With `row`, only from the row of that number, counted from 1. With `of` instead of a file, what the training of
        that version has learnt from its dataset: base, date and the rest come from its record. `base` is a folder, or a
        registered base whose files are on this machine; only its tokenizer is loaded, in a separate process. The other
        options are those of a training.

        If the worker's extra or the files of a version's base are missing here, this submits a job, as `submit_preview`
        does, and waits for it; `on_job` is called with the job first. A registry in a folder gets no such job. Raises
        NotFound without the file, the version, its dataset, the base or the row; InvalidData, InvalidBase, InvalidInput
        for whatever a training would be refused for; TimedOut; JobFailed; Unavailable without the worker's extra in an
        embedded registry.
        """
        asked = preview_asked(
            file,
            of=of,
            base=given_base_if_any(base, base_namespace, published),
            loss_on=loss_on,
            columns=columns,
            holdout=holdout,
            holdout_by=holdout_by,
            holdout_seed=holdout_seed,
            max_length=max_length,
        )
        return preview_rows(
            self, self._submitter, asked, rows=rows, row=row, on_job=on_job, on_transfer=self._on_transfer
        )

    def check_data(
        self,
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
        """What is wrong with the rows of a file, of a registered dataset, or of several together, before a training.

        It finds rows that can't be used, that occur twice, nearly twice or with different answers, that have odd
        characters, or that are also among `eval_data` or the rows that `holdout` holds out. `holdout_by` may be given
        alone, for a column that is not a key of a row.

        It is computed here, with numpy. The rows are kept in a temporary folder, so memory grows by about a byte for
        each row; held-out and repeated rows take more, as `sdk.rows.audit` says. With `base` (a folder, or a registered
        base whose files are on this machine), the worker's libraries count the tokens of `sample` rows (5,000 by
        default), spread over the file, in a separate process; the other options are those of a training. `examples` is
        how many rows of each kind are named. Raises NotFound, InvalidInput, InvalidBase; InvalidData for a file whose
        rows can't be told apart; TimedOut; Unavailable without numpy, or the worker's extra.
        """
        return check_rows_of(
            data,
            base=given_base_if_any(base, base_namespace, published),
            eval_data=eval_data,
            columns=columns,
            holdout=holdout,
            holdout_by=holdout_by,
            holdout_seed=holdout_seed,
            loss_on=loss_on,
            max_length=max_length,
            sample=sample,
            examples=examples,
            registry=lambda: self,
            on_transfer=self._on_transfer,
        )

    # Jobs.

    def submit_training(
        self,
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
        """Submit a training and return at once; `spec` are the fields of `TrainingSpec` (rank, alpha, lr, …).

        `base` is a folder (`./base`), the id of a registered base, or a hub name (`org/name@revision`). If an id means
        several bases, `base_namespace` or `published` says whose is meant; the job keeps the fingerprint. `data` and
        `eval_data` are files, digests of datasets or their first 12 digits, or names such as "reviews" or "reviews@v2".
        `data` may be several of these, or their weights: with {"a.jsonl": 3, "reviews@v2": 1}, three rows in four are
        from the first. With `parent`, such as "code-review@v3", the training continues that version: it starts with its
        matrices, over its base and with its LoRA configuration. With `like`, the training of that version is repeated
        from its record; none of `base`, `parent`, `data`, `eval_data`, `from_checkpoint` and `spec` may then be given.

        `checkpoint_every` is "10m", "90s", "50steps" or "never". `from_checkpoint`, "JOB" or "JOB@STEP", is the
        checkpoint to start from, of a training with the same base, data and spec. One attempt may run for `timeout`
        seconds, or "2h"; by default as long as the registry allows. It goes to a worker with that `device` and that
        much free `memory` in bytes; by default as much as the registry estimates. Raises InvalidInput for values and
        rows, NotFound for files, bases and checkpoints.
        """
        view = self._submitter.training(
            check_name(adapter),
            spec,
            base=given_base_if_any(base, base_namespace, published),
            parent=parent,
            like=like,
            data=data,
            eval_data=eval_data,
            job_options=job_options(priority, timeout, device, memory),
            checkpoint=checkpoint_policy(checkpoint_every),
            from_checkpoint=checkpoint_ref(from_checkpoint),
            key=idempotency_key,
        )
        return Job(view, self)

    def submit_evaluation(
        self,
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
        """Submit an evaluation of versions, and of bare bases as `base:NAME`, on the same rows; returns at once.

        `base_namespace` or `published` says whose bases are meant, if a name means several.

        Unless `only`, their bare bases and the versions in production are scored too, and come last. Unless `again`,
        earlier scores on the same rows under the same conditions are taken from the record.
        """
        checked = build(EvaluationSpec, **spec)
        view = self._submitter.evaluation(
            refs,
            checked,
            base_namespace=base_namespace,
            published=published,
            data=data,
            only=only,
            again=again,
            job_options=JobOptions(priority),
            key=idempotency_key,
        )
        return Job(view, self)

    def submit_merge(
        self,
        ref: str,
        *,
        register: str | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        **spec: Unpack[MergeOptions],
    ) -> Job[MergedModel]:
        """Submit the merge of a version into its base; returns at once. `Job.result().save(DIR)` writes the model.

        With `register` it becomes the next version of that name, of the kind "merged", and `Job.result().registered` is
        its ref. Raises NotFound, InvalidInput for a merged model and for a name in another namespace, Conflict for a
        name whose versions are adapters.
        """
        checked = build(MergeSpec, **spec)
        name = None if register is None else check_name(register)
        view = self._submitter.merge(ref, checked, register=name, job_options=JobOptions(priority), key=idempotency_key)
        return Job(view, self)

    def submit_combine(
        self,
        adapter: str,
        parents: Mapping[str, float] | Iterable[tuple[str, float]],
        *,
        priority: int = 0,
        idempotency_key: str | None = None,
        **spec: Unpack[CombineOptions],
    ) -> Job[Version]:
        """Submit the combination ΔW = Σ wᵢ·ΔWᵢ of versions over one base; returns at once.

        It becomes the next version of `adapter`. `parents` are refs and their weights, such as
        {"a@v2": 0.7, "b@v1": 0.3}; several weights of one version add up. `spec` are the fields of `CombineSpec`.
        Raises InvalidInput for versions whose sum is not a LoRA, InvalidBase for several bases, NotFound.
        """
        checked = build(CombineSpec, **spec)
        view = self._submitter.combination(
            check_name(adapter), parents, checked, job_options=JobOptions(priority), key=idempotency_key
        )
        return Job(view, self)

    def submit_preview(
        self,
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
        """Have a worker do what `preview` does, and return at once. The file is added as a dataset, and a base in a
        folder is registered.

        `rows` may be at most 100, and the result has at most 1 MiB; its `left_out` is how many texts didn't fit.
        """
        asked = preview_asked(
            file,
            of=of,
            base=given_base_if_any(base, base_namespace, published),
            loss_on=loss_on,
            columns=columns,
            holdout=holdout,
            holdout_by=holdout_by,
            holdout_seed=holdout_seed,
            max_length=max_length,
        )
        return submit_preview(self, self._submitter, asked, rows=rows, row=row, priority=priority, key=idempotency_key)

    def export(
        self,
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
        """Write an adapter, or a merged model, as the new GGUF file `output`, and read it back, here and without a job.

        `target` is the ref of an adapter's version or of a merged model, the folder of a model, or the folder of an
        adapter, which needs its `base` (a folder or a registered base, of which only the config is read). Without
        `dtype` an adapter is written in f32, and a model in its own type. `tokenizer_from` is a GGUF file of the
        model's base. With `modelfile` an Ollama Modelfile is written beside the file, for an adapter over
        `ollama_base`: a name in Ollama, or the base's GGUF file. Raises InvalidInput and InvalidBase for what such a
        file can't hold exactly, Conflict if `output` exists, NotFound, VerificationFailed, Unavailable without the
        worker's extra.
        """
        return export_gguf(
            self,
            target,
            output,
            base=given_base_if_any(base, base_namespace, published),
            dtype=dtype,
            tokenizer_from=tokenizer_from,
            modelfile=modelfile,
            ollama_base=ollama_base,
        )

    def export_plain(
        self,
        target: str | Path,
        output: str | Path,
        *,
        rank: int | None = None,
        base: str | Path | None = None,
        base_namespace: str | None = None,
        published: bool = False,
        dtype: Literal["f32", "f16", "bf16"] | None = None,
    ) -> ExportedLora:
        """Write an adapter into the new folder `output` as a plain LoRA, and read it back, here and without a job.

        It has one α and one rank: `rank`, or the largest of its modules. Modules of a lower rank are padded with zeros,
        those of a higher one are cut to the nearest ΔW; the report says how much of its energy is kept. `target` is a
        version's ref or the folder of an adapter. A DoRA needs `rank` and the weights of its base: those in `base` or,
        for a version, those of its base if they are on this machine. Raises InvalidInput for what no plain LoRA can
        hold, Conflict if `output` exists, NotFound, InvalidBase, VerificationFailed, Unavailable without the worker's
        extra.
        """
        given = given_base_if_any(base, base_namespace, published)
        return export_plain(self, target, output, rank=rank, base=given, dtype=dtype)

    def job(self, job_id: str) -> Job[Result]:
        """Return a job by its id. Raises NotFound."""
        return Job(self.job_view(job_id), self)

    def jobs(self, *, state: str | None = None, queue: str | None = None, limit: int = 50) -> list[Job[Result]]:
        """The last `limit` jobs, newest first; optionally only one state, or one queue, "gpu" or "cpu"."""
        return [Job(view, self) for view in jobs.iterate(self.transport, state=state, queue=queue, limit=limit)]

    def job_view(self, job_id: str) -> JobView:
        """What the registry says about a job now. Raises NotFound."""
        return jobs.get(self.transport, job_id)

    def job_events(self, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        """Events after a cursor, or only the `last` few; waits up to `wait_s` seconds for one."""
        return jobs.events(self.transport, job_id, after=after, wait_s=wait_s, last=last)

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job. Raises NotFound, NotAllowed, Conflict for one that has succeeded or failed."""
        return jobs.cancel(self.transport, job_id)

    def retry_job(self, job_id: str, *, idempotency_key: str | None = None) -> Job[Result]:
        """Submit a failed or cancelled job again; a training resumes from its last checkpoint.

        The same key gives the same new job. Raises NotFound, NotAllowed, Conflict for a job that has a result or is still running, QuotaExceeded.
        """
        return Job(jobs.retry(self.transport, job_id, key=idempotency_key), self)

    def attempts(self, job_id: str) -> list[AttemptView]:
        """The attempts at a job, oldest first. Raises NotFound."""
        return jobs.attempts(self.transport, job_id)

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """The stored checkpoints of a training, newest first. Raises NotFound."""
        return jobs.checkpoints(self.transport, job_id)

    def publish_checkpoint(
        self,
        job_id: str,
        step: int | None = None,
        *,
        adapter: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Published:
        """Publish the adapter of a checkpoint, by default the last one; waits until it has its number.

        It becomes a version of `adapter`, by default the one that the job trains. The same bytes again give the
        existing version. Raises NotFound, InvalidName, InvalidInput, NotAllowed, VerificationFailed.
        """
        publication = build(CheckpointPublication, adapter=adapter, tags=dict(tags or {}), description=description)
        at = jobs.newest_checkpoint(self.transport, job_id).step if step is None else step
        return jobs.publish_checkpoint(self.transport, job_id, at, publication)

    def workers(self) -> list[WorkerView]:
        """The workers that have reported in the last week, by name; memory in bytes."""
        return jobs.workers(self.transport)

    def capacity(self) -> list[QueueCapacity]:
        """Each queue as it is now: waiting and running jobs, and workers that could take them; ages in seconds."""
        return jobs.capacity(self.transport)

    def devices(self) -> list[DeviceForecasts]:
        """How much of their forecasts past trainings took, and how fast they were, by device.

        Devices with fewer than five trainings are left out.
        """
        return jobs.devices(self.transport)

    # Versions.

    def get(self, ref: str) -> Version:
        """Return the version that `ref` names now. Raises InvalidName, InvalidRef, NotFound, VerificationFailed."""
        parsed = parse_ref(ref)
        view = versions.resolve(self.transport, str(parsed))
        require_pinned(parsed, view.adapter, view.number, view.digest)
        return Version(view, self)

    def adapters(self, *, namespace: str | None = None, prefix: str = "") -> list[AdapterView]:
        """Adapters by name: all that this client may see, or those of a namespace ("-": names without one)."""
        return list(versions.adapters(self.transport, namespace=namespace, prefix=prefix))

    def versions(self, adapter: str, *, archived: bool = False) -> list[Version]:
        """The ready versions of an adapter, and with `archived` the archived ones, newest first. Raises InvalidName,
        NotFound.
        """
        found = versions.iterate(self.transport, check_name(adapter), archived=archived)
        return [Version(view, self) for view in found]

    def search(
        self,
        filter: str = "",  # noqa: A002 - the word that the HTTP interface and the command line have for it
        *,
        sort: SortKey = "-created",
        limit: int | None = None,
        scores_of: str | None = None,
    ) -> list[VersionBrief]:
        """The versions that match `filter`, such as `base = tiny and rank >= 8`, at most `limit`.

        A version is found by the scores that its own namespace made, or by those of `scores_of`: a namespace, or "*"
        for any. Raises InvalidInput, which says where a filter is wrong; NotAllowed if anybody but an admin asks for
        quarantined versions; NotFound if `scores_of` can't be read.
        """
        return list(versions.search(self.transport, filter, sort=sort, limit=limit, scores_of=scores_of))

    def norms(self, ref: str) -> VersionNorms | None:
        """The norm of ΔW of each module of the version that `ref` names now, as the registry derived it from the bytes.

        None if it could not derive them. Raises InvalidName, InvalidRef, NotFound.
        """
        found = versions.norms(self.transport, str(parse_ref(ref)))
        return None if found.norms is None else found

    def evaluations(
        self,
        *,
        digest: str | None = None,
        job: str | None = None,
        base: str | None = None,
        scores_of: str | None = None,
    ) -> list[Evaluation]:
        """Scores of a version by its digest, of a job, or of a bare base by its fingerprint.

        They are those that the namespace `scores_of` made ("*": any). Without it, they are those of the version's own
        namespace, and of a base those of the namespace in which this client would evaluate it. Raises NotFound if
        `scores_of` can't be read, InvalidInput for a digest that versions of several namespaces have.
        """
        return list(evaluations.iterate(self.transport, digest=digest, job=job, base=base, namespace=scores_of))

    def evaluation(self, ident: str) -> Evaluation:
        """Scores by their id. Raises NotFound."""
        return evaluations.get(self.transport, ident)

    def compare(
        self,
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
        """Which of several versions, and bare bases ("base:ID"), scores better on the rows that all have scores for.

        Each is compared with each, by `metric`, or else by the loss; on `data`, a file or a dataset's name or digest,
        if there are scores on several. Rows with the same value in the column `by` form a group. The `examples` rows
        that changed most are shown side by side, and the result says how many rows are needed to show a difference of
        `detect`. The scores of a version are those that its own namespace made, of a base those of the same namespace,
        unless others are asked for: those of the namespace `scores_of`, or of any ("*"). Raises NotFound, InvalidInput,
        Conflict for scores that were not taken under the same conditions.
        """
        return compare_scores(
            self.transport,
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

    def evaluation_rows(self, ident: str) -> list[RowScore]:
        """What each row scored, by the id of the scores, in the order of the rows.

        Raises NotFound, also if the scores have no rows, or no longer have them; VerificationFailed.
        """
        return fetch_rows(self.transport, self.cache, ident, http=self.http, on_transfer=self._on_transfer)

    def evaluation_slices(self, ident: str, *, by: str) -> SlicedScores:
        """Scores by the value that their rows have in a column of the dataset, of at most 50 values.

        Raises NotFound, also if the scores have no rows, or no longer have them; InvalidInput for a column that the
        rows don't have.
        """
        return evaluations.slices(self.transport, ident, by=by)

    def evaluation_labels(self, ident: str) -> LabelCounts:
        """Which labels a classifier took for which, and how sure it was, counted over its rows.

        Raises as `evaluation_rows` does.
        """
        return count_labels(self.evaluation_rows(ident))

    def export_evaluation_rows(self, ident: str, output: str | Path) -> Path:
        """Write `evaluation_rows` to a new Parquet file, with the columns of `evaluation_frame`; return its path.

        Raises as `evaluation_rows` does; Conflict if the file exists, InvalidInput for its name, Unavailable without
        pyarrow.
        """
        return write_row_parquet(lambda: self.evaluation_rows(ident), output)

    def evaluation_frame(self, ident: str) -> pandas.DataFrame:
        """`evaluation_rows` as a DataFrame: a line for each row, a column for each metric.

        Raises as `evaluation_rows` does; Unavailable without pandas.
        """
        return row_frame(self.evaluation_rows(ident))

    def lineage(
        self,
        of: str,
        *,
        direction: Direction = "both",
        depth: int = 8,
        base_namespace: str | None = None,
        published: bool = False,
    ) -> Lineage:
        """What a version was made from (up) and what was made from it (down), up to `depth` steps away, at most 32.

        `of` is a ref, `base:` and an id or fingerprint, or `data:` and a name or digest. `base_namespace` and `published`
        say whose base a name means. Raises InvalidName, InvalidRef, NotFound, InvalidInput for a name that means several.
        """
        of = of if of.startswith(("base:", "data:")) else str(parse_ref(of))
        require_one(base_namespace, published)
        return versions.trace(
            self.transport,
            of,
            direction=direction,
            depth=depth,
            base_namespace=base_namespace,
            published=bool(published),
        )

    def diff(self, a: str, b: str, *, weights: bool = True) -> Diff:
        """How two versions differ: configuration, training, data, scores, and their weights, which are fetched.

        Raises NotFound; InvalidInput for the weights of a merged model; VerificationFailed for weights that can't be
        read; Unavailable if numpy is missing.
        """
        return compare(self.get(a), self.get(b), weights=weights, fill_cache=self.fill_cache)

    def compat(
        self, ref: str | Path, *, engine: str, version: str | None = None, base: str | Path | None = None
    ) -> Compatibility:
        """Whether an engine ("vllm", "sglang", "llama.cpp", "ollama", "peft") can serve a version as it is, and how.

        The rules are those of the engine's `version`, or of the newest that was read. A Path, or "./folder", is a
        folder that PEFT saved, and `base` the folder of its base; the registry isn't asked then. Raises NotFound,
        InvalidInput for an unknown engine or version, and for a merged model.
        """
        return judged(facts_of(self, ref, base), engine, version)

    def plan(
        self,
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
        """What a training over a base takes, and what to choose.

        That is parameters, bytes on disk, memory by part, and the cards it fits. `base` is a folder, a `config.json`,
        or a registered base; `base_namespace` and `published` say whose, if its name means several. `gpu` is a size ("24GB") or a card ("RTX 4090"); None means the smallest card that fits.
        `spec` are fields of a `TrainingSpec`; what is given there is not chosen by the plan. Raises InvalidInput,
        InvalidTargets, InvalidBase, NotFound, Unavailable for a family whose shapes are unknown.
        """
        return plan_training(
            self,
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

    def archive(self, ref: str, *, reason: str = "") -> Version:
        """Hide a version from lists and `latest`; its number still finds it. Raises Conflict that names its aliases."""
        return Version(versions.archive(self.transport, version_move(ref, reason)), self)

    def restore(self, ref: str, *, reason: str = "") -> Version:
        """Bring an archived version back."""
        return Version(versions.restore(self.transport, version_move(ref, reason)), self)

    def delete(self, ref: str, *, reason: str = "") -> Version:
        """Delete a version for good; its number stays taken. Raises Conflict that names its aliases."""
        return Version(versions.delete(self.transport, version_move(ref, reason)), self)

    def release(self, ref: str, *, reason: str = "") -> Version:
        """Release a quarantined version, with the next number."""
        return Version(versions.release(self.transport, version_move(ref, reason)), self)

    def annotate(
        self,
        ref: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        untag: list[str] | None = None,
        note: str | None = None,
    ) -> Version:
        """Add a description, tags or a note to a version; anything left out stays as it is."""
        annotation = build(
            Annotation,
            ref=str(parse_ref(ref)),
            description=description,
            tags=dict(tags or {}),
            untag=untag or [],
            note=note,
        )
        return Version(versions.annotate(self.transport, annotation), self)

    # Aliases.

    def set_alias(
        self, adapter: str, alias: str, version: str | int, *, expect: str | int | None = None, reason: str = ""
    ) -> AliasView:
        """Point an alias at a version; with `expect` only if it names that version now (0: none).

        Raises NotFound, NotAllowed for a protected alias, Conflict.
        """
        change = build(AliasMove, **alias_change(adapter, alias, expect, reason), number=check_number(version))
        return aliases.move(self.transport, change)

    def promote(self, ref: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
        """Point an alias of the adapter at the version that `ref` names now; see `set_alias`."""
        number = require_numbered(ref, self.get(ref).number)
        return self.set_alias(parse_ref(ref).adapter, alias, number, expect=expect, reason=reason)

    def rollback(self, adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
        """Point an alias back at what it named before its last move; call it again to go back another move.

        Without `expect`, the alias must still name what it names at the moment of the call. Raises NotFound, NotAllowed,
        Conflict.
        """
        change = alias_change(adapter, alias, expect, reason)
        if expect is None:
            named = {found.alias: found.number for found in self.aliases(adapter)}
            change["expect"] = named.get(alias, 0)
        return aliases.roll_back(self.transport, build(AliasRollback, **change))

    def remove_alias(self, adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> None:
        """Remove an alias; its history stays. Raises NotFound, NotAllowed, Conflict."""
        aliases.remove(self.transport, build(AliasRemoval, **alias_change(adapter, alias, expect, reason)))

    def aliases(self, adapter: str) -> list[AliasView]:
        """The aliases of an adapter."""
        return aliases.of_adapter(self.transport, check_name(adapter))

    def alias_history(self, adapter: str, alias: str | None = None) -> list[AliasMoveView]:
        """The moves of all or one of an adapter's aliases, newest first."""
        one = None if alias is None else check_alias(alias)
        return list(aliases.history(self.transport, check_name(adapter), alias=one))

    def protect_alias(self, scope: str, alias: str) -> ProtectionView:
        """Let only promoters move an alias: of an adapter, of a namespace (`team/*`), or of all (`*`)."""
        return aliases.protect(self.transport, build(Protection, scope=scope, alias=alias))

    def unprotect_alias(self, scope: str, alias: str) -> None:
        """Let every writer move an alias again. Raises NotFound."""
        aliases.unprotect(self.transport, build(Protection, scope=scope, alias=alias))

    def protected_aliases(self) -> list[ProtectionView]:
        """The aliases that only promoters may move."""
        return aliases.protected(self.transport)

    # Pushing.

    def push(self, path: str | Path, adapter: str, *, base: str | Path, **options: Unpack[PushKeywords]) -> Version:
        """Publish an adapter from a folder that PEFT wrote; waits until it is verified and has its number.

        Everything in its `adapter_config.json` is recorded. `method` and `quantization` are not in it, and
        `base_revision` may be missing: what is neither given nor known from the base is recorded as unknown. To ask for
        a missing commit, `ask_revision` is first called with the base's id. The same bytes again give the existing
        version. `path` may be `hf://org/name@revision` on a model hub. It is signed with the private key in the PEM
        file `sign`, or the one that `ADAPTERCTL_SIGNING_KEY` names; `sign_password` opens it. With `expand_patterns`,
        expressions in its config are replaced with the modules' names; otherwise they are refused unless they are
        plain. Raises NotFound, InvalidInput, VerificationFailed, NotAllowed, Unavailable.
        """
        return Version(self.push_with_report(path, adapter, base=base, **options).version, self)

    def push_with_report(
        self, path: str | Path, adapter: str, *, base: str | Path | None, **options: Unpack[PushKeywords]
    ) -> PushReport:
        """Like `push`; also says whether the version existed already, what was left out, and what was expanded.

        If `base` is None it is the registered base that the folder's config names; `base_namespace` or `published` among
        the options says whose, if the name means several. A version from a hub is tagged
        `hub=org/name@commit`.
        """
        return self._pusher.push(path, adapter, PushOptions(base, **options))

    def push_tree(
        self,
        root: str | Path,
        *,
        base: str | Path | None = None,
        namespace: str | None = None,
        versions: bool = False,
        on_folder: Callable[[int, int], None] | None = None,
        **options: Unpack[PushKeywords],
    ) -> list[Imported]:
        """Publish every adapter of a tree of folders, each as `push_with_report` would.

        `sdk.pushing.import_folders.push_tree` says how `namespace` and `versions` name them, and what stops the rest.
        `on_folder` is called with the number done and the total.
        """
        return push_tree(
            self._pusher.push,
            user_path(root),
            PushOptions(base, **options),
            namespace=namespace,
            versions=versions,
            on_folder=on_folder,
        )

    def upload(self, sources: Mapping[str, Path], doing: str, namespace: str | None = None) -> str:
        """Send files, by SHA-256, straight to storage; return the upload session's id.

        Files that the registry has and this client may read are not sent; an interrupted upload continues. Space for
        the rest is reserved where it will be used: in a namespace, "-", or "*" for what is published for all; None: the
        first in which this client may write. Raises QuotaExceeded before anything is sent.
        """
        return self._pusher.uploader.upload(sources, doing, namespace)

    # Pulling.

    def pull(
        self,
        ref: str,
        to: str | Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: str | Path | None = None,
    ) -> Path:
        """Fetch a version and return its folder, which PEFT and vLLM load as it is.

        Without `to` it is the cache's own folder, which must not be edited; with `to` it is a copy, which replaces an
        older version's files there, and in which `base_name` may replace the base's name. `offline` uses only the
        cache, for a version by number or digest; `frozen` refuses a ref that may move; `verify_with` is the public key
        of the required signer. Raises NotFound, InvalidInput, Conflict if `to` has foreign files, VerificationFailed,
        Unavailable.
        """
        return self.pull_with_report(
            ref, to, offline=offline, frozen=frozen, base_name=base_name, verify_with=verify_with
        ).path

    def pull_with_report(
        self,
        ref: str,
        to: str | Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: str | Path | None = None,
    ) -> Pulled:
        """Like `pull`; also says which version it was."""
        return self._puller.pull(
            ref,
            None if to is None else user_path(to),
            offline=offline,
            frozen=frozen,
            base_name=base_name,
            verify_with=None if verify_with is None else user_path(verify_with),
        )

    def puller(self) -> Puller:
        """Return the puller that works through this client."""
        return self._puller

    def verify(self, ref: str, *, verify_with: str | Path | None = None) -> Manifest:
        """Fetch a version and hash the cached copy again; with `verify_with` it must be signed by that public key.

        Raises VerificationFailed.
        """
        return self._puller.verify(ref, verify_with=None if verify_with is None else user_path(verify_with))

    def replay_probe(self, ref: str, *, base: str | Path | None = None) -> ProbeReplay:
        """Fetch a version, and compute again what it does to its base.

        That is the norm of ΔW of each module from the pulled bytes, and the predictions on fixed texts over `base`, a
        folder, or over the version's base if that is on this machine. What differs from the record is in
        `norms_differing` and `logits.differing`, and raises nothing. Norms may differ by 1e-6 of their value, a logit
        gap by 1e-3 of its value and the rounding of the type that was computed in. Raises NotFound, InvalidInput for a
        merged model, VerificationFailed for altered bytes and for another base than the version's, InvalidBase,
        Unavailable if numpy is missing or, with `base`, the worker's libraries.
        """
        return replay_version(self, self._puller, ref, base=None if base is None else user_path(base))

    def require_base(
        self, version: Version, base: str | Path, *, base_namespace: str | None = None, published: bool = False
    ) -> None:
        """Raise VerificationFailed unless `version` was trained over the weights of `base`."""
        self._pusher.require_base(version.info, given_base(base, base_namespace, published))

    def locate(self, digest: str) -> list[Transfer]:
        """Return the locations of a manifest's files."""
        return artifacts.locate_files(self.transport, digest)

    def fill_cache(self, manifest: HasFiles, *, checked: bool = False) -> Path:
        """Return the cache's folder with a manifest's files, fetching them if needed; other processes wait meanwhile.

        With `checked`, cached files that don't match the manifest are fetched again.
        """
        return self._puller.fill_cache(manifest, checked=checked)

    def check_cached(self, manifest: HasFiles) -> Manifest:
        """Hash the cache's folder of a manifest again; return the manifest.

        Raises VerificationFailed, also for an adapter whose config is not safe to load.
        """
        return self._puller.check_cached(manifest)

    def save_manifest(self, manifest: Manifest, to: Path, *, beside: Mapping[str, str] | None = None) -> Path:
        """Fetch a manifest's files into the new folder `to`, which appears only once it is complete. Raises Conflict.

        `beside` has further texts by file name; the manifest's own files take precedence.
        """
        return self._puller.save(manifest, to, beside=beside or {})

    def model_card(self, merged: MergedModel) -> str:
        """Return the model card of a merged model, as `MergedModel.save` writes it."""
        return card_of(self, merged)

    def fetch_manifest(self, manifest: Manifest, folder: Path) -> None:
        """Fetch a manifest's files into an existing folder, each checked against its digest."""
        self._puller.fetch(manifest, folder)

    # Signatures.

    def signatures(self, digest: str) -> list[SignatureView]:
        """The signatures over the manifest with this digest, oldest first. Raises NotFound.

        The registry stores them but vouches for none: verify each with `sdk.signing.verify` and the signer's public
        key.
        """
        return artifacts.signatures(self.transport, digest)

    def sign(self, ref: str, key: str | Path | None = None, *, password: str | None = None) -> SignatureView:
        """Sign the version that `ref` names now, and store the signature; a second one by the same key replaces the
        first.

        `key` is a PEM file, by default the one that `ADAPTERCTL_SIGNING_KEY` names. Raises NotFound, InvalidInput,
        NotAllowed, Unavailable without `[signing]`.
        """
        return sign_version(self.transport, ref, key, password=password)

    def signed(
        self, manifest: Manifest, key: str | Path | None = None, *, password: str | None = None
    ) -> SignedManifest | None:
        """Sign a manifest with `key`, or the one that `ADAPTERCTL_SIGNING_KEY` names; None without either."""
        return sign_manifest(manifest, key, password=password)

    def check_signing_key(self) -> None:
        """Raise what `signed` would, if `ADAPTERCTL_SIGNING_KEY` names a key that can't sign."""
        check_signing_key()

    # Access.

    def whoami(self) -> Whoami:
        """Who this client is to the registry, and which roles it has in which namespaces."""
        return access.whoami(self.transport)

    def create_token(
        self,
        name: str,
        grants: Mapping[str, str],
        *,
        days: int | None = None,
        replace: bool = False,
        overlap_hours: int = 0,
        idempotency_key: str | None = None,
    ) -> NewToken:
        """Create a token with a role in each namespace ("-": names without one, "*": all); its secret is shown once.

        With `replace` the token in use with that name ends `overlap_hours` later. The same key gives the same token, with a
        secret that takes the place of the first. Raises InvalidInput, Conflict for a
        name that is in use there, NotAllowed for roles that this client does not administer.
        """
        request = token_request(name, grants, days=days, replace=replace, overlap_hours=overlap_hours)
        return access.create_token(self.transport, request, key=idempotency_key)

    def tokens(self) -> list[TokenView]:
        """The tokens that this client administers, newest first, without secrets."""
        return access.tokens(self.transport)

    def revoke_token(self, token_id: str) -> TokenView:
        """Revoke a token, within a second on every server process. Raises NotFound."""
        return access.revoke_token(self.transport, token_id)

    def revoke_namespace(self, namespace: str) -> RevocationView:
        """Remove every token's role in a namespace; tokens without another role are revoked.

        This client's own token keeps its role, and so do tokens with a role in all namespaces. Raises InvalidName,
        NotAllowed.
        """
        return access.revoke_namespace(self.transport, build(NamespaceRevocation, namespace=namespace))

    def quota(self, namespace: str = "-") -> QuotaView:
        """The limits of a namespace ("-": names without one), and how much of them is used."""
        return access.quota(self.transport, namespace)

    def set_quota(
        self,
        namespace: str = "-",
        *,
        max_adapters: int | None = None,
        max_bytes: int | None = None,
        max_jobs: int | None = None,
        max_record_bytes: int | None = None,
    ) -> QuotaView:
        """Set the limits of a namespace; None means no limit. What exists already stays."""
        limits = build(
            QuotaLimits,
            max_adapters=max_adapters,
            max_bytes=max_bytes,
            max_jobs=max_jobs,
            max_record_bytes=max_record_bytes,
        )
        return access.set_quota(self.transport, namespace, limits)

    def audit(
        self,
        *,
        actor: str | None = None,
        token: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        namespace: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[AuditView]:
        """The last `limit` changes in the namespaces that this client administers, newest first.

        `action` is exact or ends with `.*`; `subject` is exact, or an adapter's name for all of its versions and
        aliases.
        """
        where = {
            "actor": actor,
            "token": token,
            "action": action,
            "subject": subject,
            "namespace": namespace,
            "since": since,
            "until": until,
        }
        return list(access.audit(self.transport, limit=limit, where=where))

    # Removal.

    def retention(self, adapter: str) -> RetentionView:
        """Which versions of an adapter `gc` keeps. Raises InvalidName, NotFound."""
        return versions.retention(self.transport, check_name(adapter))

    def set_retention(
        self, adapter: str, *, keep_last: int | None = None, keep_days: int | None = None
    ) -> RetentionView:
        """Let `gc` keep the newest `keep_last` ready versions, those of the last `keep_days` days, and what aliases
        name.

        Raises InvalidName, InvalidInput, NotFound, NotAllowed.
        """
        rule = build(RetentionRule, keep_last=keep_last, keep_days=keep_days)
        return versions.set_retention(self.transport, check_name(adapter), rule)

    def clear_retention(self, adapter: str) -> None:
        """Keep all versions of an adapter again. Raises InvalidName, NotFound, NotAllowed."""
        versions.clear_retention(self.transport, check_name(adapter))

    def gc(self, *, dry_run: bool, grace_hours: int = 24, keep_merged_days: int | None = None) -> GcReport:
        """Apply the retention rules, and remove files that nothing refers to any more; a dry run only lists them.

        Files given up less than `grace_hours` ago are kept; merged models are kept for ever, or for
        `keep_merged_days`. Raises NotAllowed, Unavailable.
        """
        request = build(GcRequest, dry_run=dry_run, grace_hours=grace_hours, keep_merged_days=keep_merged_days)
        return versions.collect_garbage(self.transport, request)
