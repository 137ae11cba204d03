"""The client: every operation on a registry, over whichever transport.

>>> import tempfile
>>> client = Client(f"local:{tempfile.mkdtemp()}")
>>> client.adapters()
[]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from sdk.allowed_locations import Reach
from sdk.api import (
    access,
    adapters,
    aliases,
    audit,
    bases,
    datasets,
    evaluations,
    jobs,
    lineage,
    manifests,
    quotas,
    removal,
    search,
    signatures,
    tokens,
    versions,
    workers,
)
from sdk.api.transport import Transport
from sdk.config import Config, user_path
from sdk.config import load as load_config
from sdk.engine_compatibility import facts_of, judged
from sdk.errors import InvalidInput
from sdk.formats.manifest import HasFiles
from sdk.names import check_alias, check_name, check_number, parse_ref
from sdk.objects import Evaluation, Job, MergedModel, Result, Version
from sdk.pulling.api_source import ApiSource
from sdk.pulling.cache import Cache
from sdk.pulling.filling import OnTransfer
from sdk.pulling.http import HttpClient
from sdk.pulling.pins import require_pinned
from sdk.pulling.puller import Pulled, Puller, PullPlan
from sdk.pushing.import_folders import Imported, push_tree
from sdk.pushing.pusher import Pusher, PushKeywords, PushOptions, PushReport
from sdk.pushing.signatures import check_signing_key, sign_manifest, sign_version
from sdk.schemas.access import (
    AuditView,
    GrantView,
    NamespaceRevocation,
    NewToken,
    QuotaLimits,
    QuotaView,
    RevocationView,
    TokenReplacement,
    TokenRequest,
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
    VersionMove,
)
from sdk.schemas.diff import Diff
from sdk.schemas.evaluation import EvaluationOptions, EvaluationSpec, MergeOptions, MergeSpec
from sdk.schemas.events import Event
from sdk.schemas.jobs import (
    AttemptView,
    CheckpointPublication,
    CheckpointView,
    JobView,
    QueueCapacity,
    WorkerView,
)
from sdk.schemas.lineage import Direction, Lineage
from sdk.schemas.manifest import Manifest
from sdk.schemas.preview import Preview
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView
from sdk.schemas.search import SortKey, VersionBrief
from sdk.schemas.training import TrainingOptions, TrainingSpec
from sdk.submitting.data_preview import RowsOfFile, can_be_here, preview_asked, preview_file, preview_version
from sdk.submitting.job_options import JobTerms, checkpoint_policy, checkpoint_ref, job_terms
from sdk.submitting.submitter import JobSubmitter
from sdk.validation import build, check_data, check_data_name
from sdk.version_comparison import compare

if TYPE_CHECKING:
    from sdk.lora.compatibility import Compatibility

T = TypeVar("T")


class Client:
    """A connection to one registry. Cheap to make; nothing is asked before the first call."""

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
        #: How requests reach the registry; a `transport` that is given knows its registry already.
        self.transport = transport or Transport(load_config(url, token, insecure=insecure))
        self.cache = Cache(cache)
        #: Connections to the storage, kept from one file to the next.
        self.http = HttpClient(self.reach)
        self._on_transfer = on_transfer
        self._pusher = Pusher(self.transport, self.cache, on_transfer)
        self._submitter = JobSubmitter(self.transport, self._pusher)
        self._puller = Puller(
            ApiSource(self.transport), self.cache, self.config.url, http=self.http, on_transfer=on_transfer
        )

    @property
    def config(self) -> Config:
        """Which registry it is, and how it is reached."""
        return self.transport.config

    @property
    def reach(self) -> Reach:
        """The places that the registry may name."""
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
        """Register the base in a folder; with `upload` its files go to the registry's storage for workers elsewhere.

        It is a base of `namespace` ("-": of names without one, "*": of all). Without one it is for all, where this client
        is an admin of all namespaces, and else of names without one, or of the first in which it may write. Raises NotFound, InvalidBase for a folder without
        safetensors weights, InvalidInput for a link that leads out of it, NotAllowed.
        """
        return self._pusher.register_scanned(
            self._pusher.scan_base(folder, base_id=id), upload=upload, namespace=namespace
        )

    def register_base(self, registration: BaseRegistration) -> BaseView:
        """Register a base that was scanned already."""
        return self._pusher.register_base(registration)

    def bases(self) -> list[BaseView]:
        """The bases that may be used, the newest first."""
        return list(bases.iterate(self.transport))

    def base(self, name: str, *, namespace: str | None = None) -> BaseView:
        """A base by id or fingerprint, with its config: what the name means in `namespace`, or in any that may be seen.

        Raises NotFound, InvalidInput where it means different bases in several namespaces.
        """
        return bases.get(self.transport, name, namespace=namespace)

    def remove_base(self, name: str, *, namespace: str | None = None) -> None:
        """Take a base away from a namespace, by id or fingerprint; its versions stay. Raises NotFound, NotAllowed."""
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
        """Correct what a namespace calls a base, or where it lies ("": nowhere), or let its files be sent anew.

        Raises NotFound, NotAllowed, InvalidInput.
        """
        change = build(BaseFix, name=name, namespace=namespace, id=id, location=location, forget_files=forget_files)
        return bases.fix(self.transport, change)

    def add_data(self, path: str | Path, *, namespace: str | None = None, name: str | None = None) -> DatasetView:
        """Check and upload a dataset of JSONL, CSV or Parquet, for the readers of a namespace ("-": none).

        Without `namespace` it is the first in which this client may write; without `name` it is called as its file is.
        Raises NotFound, InvalidData with the bad lines, InvalidName for a name that looks like a digest, NotAllowed.
        """
        data = check_data(path)
        return self._pusher.send_data(data, namespace, check_data_name(data.name if name is None else name))

    def datasets(self) -> list[DatasetView]:
        """The datasets that may be used, the newest first."""
        return list(datasets.iterate(self.transport))

    def remove_data(self, name: str) -> None:
        """Give a dataset's rows up, by digest or name; what was trained on it still names it.

        Raises NotFound, InvalidInput for a name that datasets of several namespaces have.
        """
        datasets.remove(self.transport, name)

    def locate_data(self, name: str) -> Transfer:
        """Say where a dataset is fetched from, by digest or name.

        Raises NotFound, InvalidInput for a name that datasets of several namespaces have, VerificationFailed where another
        digest is answered than was asked for.
        """
        return datasets.locate(self.transport, name)

    def preview(
        self,
        file: str | Path | None = None,
        *,
        of: str | None = None,
        base: str | Path | None = None,
        rows: int = 3,
        row: int | None = None,
        loss_on: Literal["completion", "assistant", "all"] | None = None,
        max_length: int | None = None,
        on_job: Callable[[Job[Preview]], object] | None = None,
    ) -> Preview:
        """What a training over `base` would learn of the first `rows` rows of a file, or of its `row` alone, counted from 1.

        Or, `of` a version, what its training has learnt of the rows of its dataset: base, date and the rest are those of its
        record. `base` is a folder, or a registered base whose files lie on this machine; only its tokenizer is loaded, in a
        process of its own. The other options are those of a training. Without the worker's extra, or the files of a
        version's base, a job does it, as of `submit_preview`, which is waited for; `on_job` is called with it before. Raises NotFound without the file, the
        version, its dataset, the base or the row; InvalidData, InvalidBase, InvalidInput with what the training would be
        refused for; TimedOut; JobFailed; Unavailable without the worker's extra in an embedded registry.
        """
        asked = preview_asked(file, of=of, base=base, loss_on=loss_on, max_length=max_length)
        found = asked if isinstance(asked, RowsOfFile) else self.get(asked).info
        if self.config.home is None and not can_be_here(self.transport, self.cache, found):
            view = self._submitter.preview(found, rows=rows, row=row, terms=JobTerms(0), key=None)
            job: Job[Preview] = Job(view, self)
            if on_job is not None:
                on_job(job)
            return job.result()
        if isinstance(found, RowsOfFile):
            return preview_file(self.transport, self.cache, found, rows=rows, row=row)
        return preview_version(
            self.transport, self.cache, found, rows=rows, row=row, http=self.http, on_transfer=self._on_transfer
        )

    # Jobs.

    def submit_training(
        self,
        adapter: str,
        *,
        base: str | Path,
        data: str | Path,
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

        `base` is a folder (`./base`), the id of a registered base, or a hub name (`org/name@revision`). It writes down
        how far it is `checkpoint_every` "10m", "90s", "50steps" or "never", and goes on `from_checkpoint` "JOB" or
        "JOB@STEP" of a training with the same base, data and spec. One attempt may run for `timeout` seconds, or "2h",
        else for as long as the registry allows by default; it goes to a worker with that `device` and `memory` in bytes free, else to one that the registry estimates to have
        enough. Raises InvalidInput for values and rows, NotFound for files, bases and checkpoints.
        """
        view = self._submitter.training(
            check_name(adapter),
            build(TrainingSpec, **spec),
            base=base,
            data=data,
            eval_data=eval_data,
            terms=job_terms(priority, timeout, device, memory),
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
        priority: int = 0,
        idempotency_key: str | None = None,
        **spec: Unpack[EvaluationOptions],
    ) -> Job[list[Evaluation]]:
        """Submit an evaluation of versions, and of bare bases as `base:NAME`, on the same rows; returns at once."""
        terms, checked = JobTerms(priority), build(EvaluationSpec, **spec)
        return Job(self._submitter.evaluation(refs, checked, data=data, terms=terms, key=idempotency_key), self)

    def submit_merge(
        self, ref: str, *, priority: int = 0, idempotency_key: str | None = None, **spec: Unpack[MergeOptions]
    ) -> Job[MergedModel]:
        """Submit the merge of a version into its base; returns at once. `Job.result().save(DIR)` writes the model."""
        terms, checked = JobTerms(priority), build(MergeSpec, **spec)
        return Job(self._submitter.merge(ref, checked, terms=terms, key=idempotency_key), self)

    def submit_preview(
        self,
        file: str | Path | None = None,
        *,
        of: str | None = None,
        base: str | Path | None = None,
        rows: int = 3,
        row: int | None = None,
        loss_on: Literal["completion", "assistant", "all"] | None = None,
        max_length: int | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Job[Preview]:
        """Let a worker do what `preview` does, and return at once. The file is added as a dataset, a base in a folder registered.

        At most 100 rows are shown, and texts of 1 MiB; the result says in `left_out` how many more there are.
        """
        asked = preview_asked(file, of=of, base=base, loss_on=loss_on, max_length=max_length)
        found = asked if isinstance(asked, RowsOfFile) else self.get(asked).info
        view = self._submitter.preview(found, rows=rows, row=row, terms=JobTerms(priority), key=idempotency_key)
        return Job(view, self)

    def job(self, job_id: str) -> Job[Result]:
        """Return a job by its id. Raises NotFound."""
        return Job(self.job_view(job_id), self)

    def jobs(self, *, state: str | None = None, queue: str | None = None, limit: int = 50) -> list[Job[Result]]:
        """The last `limit` jobs, the newest first; of a state, or of the queue "gpu" or "cpu"."""
        return [Job(view, self) for view in jobs.iterate(self.transport, state=state, queue=queue, limit=limit)]

    def job_view(self, job_id: str) -> JobView:
        """What the registry says of a job now. Raises NotFound."""
        return jobs.get(self.transport, job_id)

    def job_events(self, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        """Events after a cursor, only the `last` so many of them if given; waits up to `wait_s` seconds for one."""
        return jobs.events(self.transport, job_id, after=after, wait_s=wait_s, last=last)

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job. Raises NotFound, NotAllowed, Conflict for one that has succeeded or failed."""
        return jobs.cancel(self.transport, job_id)

    def retry_job(self, job_id: str) -> Job[Result]:
        """Submit a failed or cancelled job once more; a training goes on from its last checkpoint.

        Raises NotFound, NotAllowed, Conflict for a job that has a result or goes on, QuotaExceeded.
        """
        return Job(jobs.retry(self.transport, job_id), self)

    def attempts(self, job_id: str) -> list[AttemptView]:
        """The attempts at a job, the first one first. Raises NotFound."""
        return jobs.attempts(self.transport, job_id)

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """The checkpoints of a training that are stored, the newest first. Raises NotFound."""
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
        """Publish the adapter of a checkpoint, of the last one where no `step` is given; waits until it has its number.

        It becomes a version of `adapter`, else of the one that the job trains. The same bytes again give the existing
        version. Raises NotFound, InvalidName, InvalidInput, NotAllowed, VerificationFailed.
        """
        publication = build(CheckpointPublication, adapter=adapter, tags=dict(tags or {}), description=description)
        at = jobs.newest_checkpoint(self.transport, job_id).step if step is None else step
        return jobs.publish_checkpoint(self.transport, job_id, at, publication)

    def workers(self) -> list[WorkerView]:
        """The workers that were heard of in the last week, by name; memory in bytes."""
        return workers.heard_of(self.transport)

    def capacity(self) -> list[QueueCapacity]:
        """Each queue as it is now: what waits, what runs, who could take it; ages in seconds."""
        return workers.capacity(self.transport)

    # Versions.

    def get(self, ref: str) -> Version:
        """Return the version that `ref` names now. Raises InvalidName, InvalidRef, NotFound, VerificationFailed."""
        parsed = parse_ref(ref)
        view = versions.resolve(self.transport, str(parsed))
        require_pinned(parsed, view.adapter, view.number, view.digest)
        return Version(view, self)

    def adapters(self, *, namespace: str | None = None, prefix: str = "") -> list[AdapterView]:
        """Adapters by name: all that may be seen, or those of a namespace ("-": of none)."""
        return list(adapters.iterate(self.transport, namespace=namespace, prefix=prefix))

    def versions(self, adapter: str, *, archived: bool = False) -> list[Version]:
        """The ready versions of an adapter, with `archived` those too, the newest first. Raises InvalidName, NotFound."""
        found = versions.iterate(self.transport, check_name(adapter), archived=archived)
        return [Version(view, self) for view in found]

    def search(
        self,
        filter: str = "",  # noqa: A002 - the word that the HTTP interface and the command line have for it
        *,
        sort: SortKey = "-created",
        limit: int | None = None,
    ) -> list[VersionBrief]:
        """The versions that `filter` is true of, such as `base = tiny and rank >= 8`, at most `limit`.

        Raises InvalidInput that says where a filter is wrong; NotAllowed for quarantined versions where no admin asks.
        """
        return list(search.iterate(self.transport, filter, sort=sort, limit=limit))

    def evaluations(
        self, *, digest: str | None = None, job: str | None = None, base: str | None = None
    ) -> list[Evaluation]:
        """Scores of a version, of a job, or of a bare base by its fingerprint."""
        return list(evaluations.iterate(self.transport, digest=digest, job=job, base=base))

    def lineage(self, of: str, *, direction: Direction = "both", depth: int = 8) -> Lineage:
        """What a version came from (up) and what came of it (down), up to `depth` steps away, 32 at most.

        `of` is a ref, `base:` and an id or fingerprint, or `data:` and a name or digest: what came of those. Raises
        InvalidName, InvalidRef, NotFound.
        """
        of = of if of.startswith(("base:", "data:")) else str(parse_ref(of))
        return lineage.trace(self.transport, of, direction=direction, depth=depth)

    def diff(self, a: str, b: str, *, weights: bool = True) -> Diff:
        """How two versions differ: configuration, training, data, scores, and their weights, which are fetched.

        Raises NotFound; VerificationFailed for weights that can't be read; Unavailable where numpy is missing.
        """
        return compare(self.get(a), self.get(b), weights=weights, fill_cache=self.fill_cache)

    def compat(
        self, ref: str | Path, *, engine: str, version: str | None = None, base: str | Path | None = None
    ) -> Compatibility:
        """Whether an engine ("vllm", "sglang", "llama.cpp", "ollama", "peft") can serve a version as it is, and how.

        The rules are those of the engine's `version`, or of the newest that was read. A Path, or "./folder", is a folder that
        PEFT saved, and `base` the folder of its base; nothing is asked of the registry then. Raises NotFound, InvalidInput for
        an engine or a version that there is none of, and for a merged model.
        """
        return judged(facts_of(self, ref, base), engine, version)

    def archive(self, ref: str, *, reason: str = "") -> Version:
        """Hide a version from lists and `latest`; its number still finds it. Raises Conflict that names its aliases."""
        return Version(versions.archive(self.transport, _move(ref, reason)), self)

    def restore(self, ref: str, *, reason: str = "") -> Version:
        """Bring an archived version back."""
        return Version(versions.restore(self.transport, _move(ref, reason)), self)

    def delete(self, ref: str, *, reason: str = "") -> Version:
        """Take a version away for good; its number stays taken. Raises Conflict that names its aliases."""
        return Version(versions.delete(self.transport, _move(ref, reason)), self)

    def release(self, ref: str, *, reason: str = "") -> Version:
        """Let a quarantined version be one, with the next number."""
        return Version(versions.release(self.transport, _move(ref, reason)), self)

    def annotate(
        self,
        ref: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        untag: list[str] | None = None,
        note: str | None = None,
    ) -> Version:
        """Write a description, tags or a note to a version; what is left out stays as it is."""
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
        number = check_number(version)
        change = build(AliasMove, **_alias(adapter, alias, expect, reason), number=number)
        return aliases.move(self.transport, change)

    def promote(self, ref: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
        """Point an alias of the adapter at the version that `ref` names now; see `set_alias`."""
        number = self.get(ref).number
        if number is None:
            raise InvalidInput(f"{ref} has no number, so no alias can name it; an admin has to release it", param="ref")
        return self.set_alias(parse_ref(ref).adapter, alias, number, expect=expect, reason=reason)

    def rollback(self, adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
        """Let an alias name again what it named before its last move; again goes one further back. Raises Conflict."""
        return aliases.roll_back(self.transport, build(AliasRollback, **_alias(adapter, alias, expect, reason)))

    def remove_alias(self, adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> None:
        """Take an alias away; its history stays. Raises NotFound, NotAllowed, Conflict."""
        aliases.remove(self.transport, build(AliasRemoval, **_alias(adapter, alias, expect, reason)))

    def aliases(self, adapter: str) -> list[AliasView]:
        """The aliases of an adapter."""
        return aliases.of_adapter(self.transport, check_name(adapter))

    def alias_history(self, adapter: str, alias: str | None = None) -> list[AliasMoveView]:
        """The moves of an adapter's aliases, or of one, the newest first."""
        one = None if alias is None else check_alias(alias)
        return list(aliases.history(self.transport, check_name(adapter), alias=one))

    def protect_alias(self, scope: str, alias: str) -> ProtectionView:
        """Let only promoters move an alias: of an adapter, of a namespace (`team/*`), or of all (`*`)."""
        return aliases.protect(self.transport, build(Protection, scope=scope, alias=alias))

    def unprotect_alias(self, scope: str, alias: str) -> None:
        """Let every writer move an alias again. Raises NotFound."""
        aliases.unprotect(self.transport, build(Protection, scope=scope, alias=alias))

    def protected_aliases(self) -> list[ProtectionView]:
        """The aliases that only promoters move."""
        return aliases.protected(self.transport)

    # Pushing.

    def push(self, path: str | Path, adapter: str, *, base: str | Path, **options: Unpack[PushKeywords]) -> Version:
        """Publish an adapter from a folder that PEFT wrote; waits until it is verified and has its number.

        All that its `adapter_config.json` says is recorded; `method`, `quantization` and `base_revision` are what it can't
        say, and are recorded as unknown where nobody says them; `ask_revision` is asked for the base's commit, given the
        base's id, before that. The same bytes again give the existing version. `path` may be `hf://org/name@revision`, of a
        model hub. It is signed with the private key in the PEM file `sign`, or in what `ADAPTERCTL_SIGNING_KEY` names;
        `sign_password` opens it. With `expand_patterns` the modules' names are written in place of expressions in its
        config, which are refused unless they are plain. Raises NotFound, InvalidInput, VerificationFailed, NotAllowed, Unavailable.
        """
        return Version(self.push_with_report(path, adapter, base=base, **options).version, self)

    def push_with_report(
        self, path: str | Path, adapter: str, *, base: str | Path | None, **options: Unpack[PushKeywords]
    ) -> PushReport:
        """As `push`; also says whether the version existed, and what was left out or is unknown.

        Where `base` is None it is the registered base that the folder's config names. What a hub gave is tagged
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

        How `namespace` and `versions` name them, and what stops the rest: `sdk.pushing.import_folders.push_tree`.
        `on_folder` is called with how many are done, and of how many.
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

        What the registry has and this client may read is not sent; what was interrupted goes on. Room is reserved for the
        rest where it will be used: in a namespace, "-", or "*" for what is published for all; None: the first in which this
        client may write. Raises QuotaExceeded before anything is sent.
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

        Without `to` it is the cache's own folder, which is not to be edited; with `to` a copy, which replaces an older
        version's files there, and in which `base_name` may take the place of the base's name. `offline` asks the cache
        alone, for a version by number or digest; `frozen` takes no ref that may move; `verify_with` is the public key of
        who must have signed it. Raises NotFound, InvalidInput, Conflict where `to` holds foreign files,
        VerificationFailed, Unavailable.
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
        """As `pull`; also says which version it was."""
        return self._puller.pull(
            ref,
            None if to is None else user_path(to),
            offline=offline,
            frozen=frozen,
            base_name=base_name,
            verify_with=None if verify_with is None else user_path(verify_with),
        )

    def plan_pull(self, ref: str, *, offline: bool = False, frozen: bool = False) -> PullPlan:
        """Say which files a pull would give, and which of them are in the cache already."""
        return self._puller.plan(ref, offline=offline, frozen=frozen)

    def puller(self) -> Puller:
        """Return what pulls through this client."""
        return self._puller

    def verify(self, ref: str, *, verify_with: str | Path | None = None) -> Manifest:
        """Fetch a version and hash the cached copy again; with `verify_with` it must be signed by that public key.

        Raises VerificationFailed.
        """
        return self._puller.verify(ref, verify_with=None if verify_with is None else user_path(verify_with))

    def require_base(self, version: Version, base: str | Path) -> None:
        """Raise VerificationFailed unless `version` was trained over the weights of `base`."""
        self._pusher.require_base(version.info, base)

    def locate(self, digest: str) -> list[Transfer]:
        """Say where the files of a manifest are fetched from."""
        return manifests.locate(self.transport, digest)

    def fill_cache(self, manifest: HasFiles, *, checked: bool = False) -> Path:
        """Return the cache's folder of a manifest's files, fetched if need be; other processes wait meanwhile.

        With `checked`, files that lie there with other bytes than the manifest says are fetched again.
        """
        return self._puller.fill_cache(manifest, checked=checked)

    def check_cached(self, manifest: HasFiles) -> Manifest:
        """Hash the cache's folder of a manifest again; return the manifest.

        Raises VerificationFailed, also for an adapter whose config no library should be given.
        """
        return self._puller.check_cached(manifest)

    def save_manifest(self, manifest: Manifest, to: Path) -> Path:
        """Fetch a manifest's files into the new folder `to`, complete once it has its name. Raises Conflict."""
        return self._puller.save(manifest, to)

    def fetch_manifest(self, manifest: Manifest, folder: Path) -> None:
        """Fetch a manifest's files into an existing folder, each checked against its digest."""
        self._puller.fetch(manifest, folder)

    # Signatures.

    def signatures(self, digest: str) -> list[SignatureView]:
        """The signatures over the manifest with this digest, the first one first. Raises NotFound.

        The registry keeps them and vouches for none: verify each with `sdk.signing.verify` and the signer's public key.
        """
        return signatures.of_manifest(self.transport, digest)

    def sign(self, ref: str, key: str | Path | None = None, *, password: str | None = None) -> SignatureView:
        """Sign the version that `ref` names now, and hand the signature in; a key's second takes the place of its first.

        `key` is a PEM file, or else what `ADAPTERCTL_SIGNING_KEY` names. Raises NotFound, InvalidInput, NotAllowed,
        Unavailable without `[signing]`.
        """
        return sign_version(self.transport, ref, key, password=password)

    def signed(
        self, manifest: Manifest, key: str | Path | None = None, *, password: str | None = None
    ) -> SignedManifest | None:
        """Sign a manifest with `key`, or with what `ADAPTERCTL_SIGNING_KEY` names; None where neither does."""
        return sign_manifest(manifest, key, password=password)

    def check_signing_key(self) -> None:
        """Raise what `signed` would, if `ADAPTERCTL_SIGNING_KEY` names a key that can't sign."""
        check_signing_key()

    # Access.

    def whoami(self) -> Whoami:
        """Who the registry takes this client for, and what it may do where."""
        return access.whoami(self.transport)

    def create_token(
        self,
        name: str,
        grants: Mapping[str, str],
        *,
        days: int | None = None,
        replace: bool = False,
        overlap_hours: int = 0,
    ) -> NewToken:
        """Make a token with a role in each namespace ("-": names without one, "*": all); its secret is shown once.

        With `replace` the token in use that has its name ends `overlap_hours` later. Raises InvalidInput, Conflict for a
        name that is in use there, NotAllowed for roles that this client does not administer.
        """
        given = [build(GrantView, namespace=namespace, role=role) for namespace, role in grants.items()]
        about = {"name": name, "grants": given, "days": days}
        # A server of the release before knows nothing of replacing, and refuses fields that it does not know.
        request = (
            build(TokenReplacement, **about, replace=True, overlap_hours=overlap_hours)
            if replace
            else build(TokenRequest, **about)
        )
        return tokens.create(self.transport, request)

    def tokens(self) -> list[TokenView]:
        """The tokens that this client administers, the newest first, without secrets."""
        return tokens.administered(self.transport)

    def revoke_token(self, token_id: str) -> TokenView:
        """Make a token worthless, within a second on every server process. Raises NotFound."""
        return tokens.revoke(self.transport, token_id)

    def revoke_namespace(self, namespace: str) -> RevocationView:
        """Take from every token the role that it has in a namespace; those that have none beside it are revoked.

        This client's own token keeps it, and so do those with a role in all namespaces. Raises InvalidName, NotAllowed.
        """
        return tokens.revoke_namespace(self.transport, build(NamespaceRevocation, namespace=namespace))

    def quota(self, namespace: str = "-") -> QuotaView:
        """The limits of a namespace ("-": names without one), and what is used of them."""
        return quotas.get(self.transport, namespace)

    def set_quota(
        self,
        namespace: str = "-",
        *,
        max_adapters: int | None = None,
        max_bytes: int | None = None,
        max_jobs: int | None = None,
    ) -> QuotaView:
        """Set the limits of a namespace; None means none. What it has already stays."""
        limits = build(QuotaLimits, max_adapters=max_adapters, max_bytes=max_bytes, max_jobs=max_jobs)
        return quotas.set_limits(self.transport, namespace, limits)

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
        """The last `limit` changes in the namespaces that this client administers, the newest first.

        `action` is whole or ends with `.*`; `subject` is whole, or an adapter's name for all of its versions and aliases.
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
        return list(audit.latest(self.transport, limit=limit, where=where))

    # Removal.

    def retention(self, adapter: str) -> RetentionView:
        """Which versions of an adapter `gc` keeps. Raises InvalidName, NotFound."""
        return removal.retention(self.transport, check_name(adapter))

    def set_retention(
        self, adapter: str, *, keep_last: int | None = None, keep_days: int | None = None
    ) -> RetentionView:
        """Let `gc` keep the newest `keep_last` ready versions, those of the last `keep_days` days, and what aliases name.

        Raises InvalidName, InvalidInput, NotFound, NotAllowed.
        """
        rule = build(RetentionRule, keep_last=keep_last, keep_days=keep_days)
        return removal.set_retention(self.transport, check_name(adapter), rule)

    def clear_retention(self, adapter: str) -> None:
        """Keep all versions of an adapter again. Raises InvalidName, NotFound, NotAllowed."""
        removal.clear_retention(self.transport, check_name(adapter))

    def gc(self, *, dry_run: bool, grace_hours: int = 24, keep_merged_days: int | None = None) -> GcReport:
        """Apply the retention rules, and remove the files that nothing names any more; a dry run only says which.

        What was given up less than `grace_hours` ago is kept, and so are merged models, unless `keep_merged_days` says
        for how long. Raises NotAllowed, Unavailable.
        """
        request = build(GcRequest, dry_run=dry_run, grace_hours=grace_hours, keep_merged_days=keep_merged_days)
        return removal.collect_garbage(self.transport, request)


def _alias(adapter: str, alias: str, expect: str | int | None, reason: str) -> dict[str, Any]:
    return {
        "adapter": check_name(adapter),
        "alias": check_alias(alias),
        "expect": None if expect is None else check_number(expect),
        "reason": reason,
    }


def _move(ref: str, reason: str) -> VersionMove:
    return build(VersionMove, ref=str(parse_ref(ref)), reason=reason)
