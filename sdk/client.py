"""The client: what is called most, and the nouns that all else hangs on, over whichever transport.

>>> import tempfile
>>> client = Client(f"local:{tempfile.mkdtemp()}")
>>> client.adapters()
[]
>>> client.close()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, Unpack

from sdk.allowed_locations import Reach
from sdk.api.transport import Transport
from sdk.config import Config
from sdk.config import load as load_config
from sdk.errors import InvalidInput
from sdk.pulling.cache import Cache

if TYPE_CHECKING:
    from sdk.api.access import AuditAPI, QuotasAPI, TokensAPI
    from sdk.api.aliases import AliasesAPI
    from sdk.api.jobs import JobsAPI
    from sdk.api.removal import RetentionAPI
    from sdk.api.versions import AdaptersAPI
    from sdk.api.workers import WorkersAPI
    from sdk.asking.asker import Dtype, Generation
    from sdk.examining.reporting import Form, WrittenReport
    from sdk.notebook.table_list import TableList
    from sdk.nouns.approvals import ApprovalsAPI
    from sdk.nouns.bases import BasesAPI
    from sdk.nouns.datasets import DatasetsAPI
    from sdk.nouns.decisions import DecisionsAPI
    from sdk.nouns.evaluations import EvaluationsAPI
    from sdk.nouns.policies import PoliciesAPI
    from sdk.nouns.signatures import SignaturesAPI
    from sdk.nouns.statements import StatementsAPI
    from sdk.nouns.sweeps import Sweep, SweepsAPI
    from sdk.nouns.versions import VersionsAPI
    from sdk.objects import Evaluation, Job, MergedModel, Result, Version
    from sdk.plotting.plot import Plot, SweepPlot
    from sdk.pulling.filling import OnTransfer
    from sdk.pulling.http import HttpClient
    from sdk.pulling.puller import Puller
    from sdk.pushing.pusher import Pusher, PushKeywords
    from sdk.pushing.upload import Uploader
    from sdk.schemas.aliases import AliasView
    from sdk.schemas.diff import Diff
    from sdk.schemas.keywords import (
        CombineOptions,
        EvaluationOptions,
        MergeOptions,
        PlanKeywords,
        RowOptions,
        SweepKeywords,
        TrainingOptions,
    )
    from sdk.schemas.lineage import Direction, Lineage
    from sdk.schemas.planning import Plan
    from sdk.schemas.preview import Preview
    from sdk.schemas.scores import Comparison
    from sdk.submitting.given_data import TrainingData
    from sdk.submitting.submitter import JobSubmitter

T = TypeVar("T")


class Client:
    """A connection to one registry. Cheap to create; nothing is sent before the first call.

    Each noun lists what it is about when it is called: `client.jobs(state="running")`.
    """

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
        self.on_transfer = on_transfer
        #: What is done when a `with` block of this client is left.
        self.on_leaving: Callable[[], object] | None = None

    # What most calls don't need is made, and imported, when it is first used.

    @cached_property
    def http(self) -> HttpClient:
        """Connections to the storage, reused from one file to the next."""
        from sdk.pulling.http import HttpClient

        return HttpClient(self.reach)

    @cached_property
    def pusher(self) -> Pusher:
        """Packs and publishes."""
        from sdk.pushing.pusher import Pusher

        return Pusher(self.transport, self.cache, self.on_transfer)

    @property
    def uploader(self) -> Uploader:
        """Sends files straight to storage, ahead of what refers to them."""
        return self.pusher.uploader

    @cached_property
    def puller(self) -> Puller:
        """Fetches versions, and the files of any manifest."""
        from sdk.pulling.api_source import ApiSource
        from sdk.pulling.puller import Puller

        return Puller(
            ApiSource(self.transport), self.cache, self.config.url, http=self.http, on_transfer=self.on_transfer
        )

    @cached_property
    def submitter(self) -> JobSubmitter:
        """Submits jobs."""
        from sdk.submitting.given_template import rendering_of
        from sdk.submitting.submitter import JobSubmitter

        return JobSubmitter(self.transport, self.pusher, partial(rendering_of, reach=self))

    @cached_property
    def adapters(self) -> AdaptersAPI:
        """Names of adapters."""
        from sdk.api.versions import AdaptersAPI

        return AdaptersAPI(self.transport)

    @cached_property
    def aliases(self) -> AliasesAPI:
        """What aliases name, and how that changed."""
        from sdk.api.aliases import AliasesAPI

        return AliasesAPI(self.transport)

    @cached_property
    def approvals(self) -> ApprovalsAPI:
        """Who approves of which version."""
        from sdk.nouns.approvals import ApprovalsAPI

        return ApprovalsAPI(self)

    @cached_property
    def audit(self) -> AuditAPI:
        """Who changed what."""
        from sdk.api.access import AuditAPI

        return AuditAPI(self.transport)

    @cached_property
    def bases(self) -> BasesAPI:
        """Bases."""
        from sdk.nouns.bases import BasesAPI

        return BasesAPI(self)

    @cached_property
    def datasets(self) -> DatasetsAPI:
        """Datasets."""
        from sdk.nouns.datasets import DatasetsAPI

        return DatasetsAPI(self)

    @cached_property
    def decisions(self) -> DecisionsAPI:
        """What was decided about aliases."""
        from sdk.nouns.decisions import DecisionsAPI

        return DecisionsAPI(self)

    @cached_property
    def evaluations(self) -> EvaluationsAPI:
        """Scores."""
        from sdk.nouns.evaluations import EvaluationsAPI

        return EvaluationsAPI(self)

    @cached_property
    def jobs(self) -> JobsAPI[Job[Result]]:
        """Jobs."""
        from sdk.api.jobs import JobsAPI
        from sdk.objects import Job

        return JobsAPI(self.transport, lambda view: Job(view, self))

    @cached_property
    def policies(self) -> PoliciesAPI:
        """What must hold before an alias moves."""
        from sdk.nouns.policies import PoliciesAPI

        return PoliciesAPI(self)

    @cached_property
    def quotas(self) -> QuotasAPI:
        """What namespaces may have."""
        from sdk.api.access import QuotasAPI

        return QuotasAPI(self.transport)

    @cached_property
    def retention(self) -> RetentionAPI:
        """Which versions are kept."""
        from sdk.api.removal import RetentionAPI

        return RetentionAPI(self.transport)

    @cached_property
    def signatures(self) -> SignaturesAPI:
        """Who vouches for versions."""
        from sdk.nouns.signatures import SignaturesAPI

        return SignaturesAPI(self)

    @cached_property
    def statements(self) -> StatementsAPI:
        """Who vouches for what aliases name."""
        from sdk.nouns.statements import StatementsAPI

        return StatementsAPI(self)

    @cached_property
    def sweeps(self) -> SweepsAPI:
        """Sweeps."""
        from sdk.nouns.sweeps import SweepsAPI

        return SweepsAPI(self)

    @cached_property
    def tokens(self) -> TokensAPI:
        """Tokens."""
        from sdk.api.access import TokensAPI

        return TokensAPI(self.transport)

    @cached_property
    def versions(self) -> VersionsAPI:
        """Versions."""
        from sdk.nouns.versions import VersionsAPI

        return VersionsAPI(self)

    @cached_property
    def workers(self) -> WorkersAPI:
        """Workers."""
        from sdk.api.workers import WorkersAPI

        return WorkersAPI(self.transport)

    def __repr__(self) -> str:
        return f"Client(url={self.config.url!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client is not pickled, since its token would be; call sdk.connect() in the other process")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections; if `connect` made this the default client, the one before is the default again."""
        if self.on_leaving is not None:
            self.on_leaving()
        self.close()

    @property
    def config(self) -> Config:
        """Which registry this is, and how it is reached."""
        return self.transport.config

    @property
    def reach(self) -> Reach:
        """The locations that the registry may give for files."""
        return self.config.reach

    def call(self, method: str, path: str, reply: type[T], **given: Any) -> T:
        """Call a route for which there is no method; see `sdk.api` for the routes as typed calls."""
        return self.transport.call(method, path, reply, **given)

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()
        if "http" in vars(self):
            self.http.close()

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
        test_data: str | Path | None = None,
        checkpoint_every: str | None = None,
        from_checkpoint: str | None = None,
        priority: int = 0,
        timeout: float | str | None = None,
        device: Literal["any", "cuda"] | None = None,
        memory: int | None = None,
        require_worker: bool = False,
        idempotency_key: str | None = None,
        **spec: Unpack[TrainingOptions],
    ) -> Job[Version]:
        """Submit a training and return at once.

        Args:
            adapter: the name that its version gets, `name` or `namespace/name`.
            base: a folder (`./base`), the id of a registered base, or a hub name (`org/name@revision`). The job keeps its fingerprint.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.
            parent: a version such as "code-review@v3", which the training continues: it starts with its matrices, over its base and with
                its LoRA configuration.
            like: a version whose training is repeated from its record; none of `base`, `parent`, `data`, `eval_data`, `test_data`,
                `from_checkpoint` and `spec` may then be given.
            data: a file, the digest of a dataset or its first 12 digits, or a name such as "reviews" or "reviews@v2"; several of these, or
                their weights: with {"a.jsonl": 3, "reviews@v2": 1}, three rows in four are from the first.
            eval_data: rows that are looked at while it trains, and may choose which weights are published.
            test_data: rows that only tell how good the chosen weights are.
            checkpoint_every: "10m", "90s", "50steps" or "never".
            from_checkpoint: "JOB" or "JOB@STEP", the checkpoint to start from, of a training with the same base, data and spec.
            priority: higher goes first within the namespace; writers may give up to 10.
            timeout: how long one attempt may run, in seconds or as "2h"; by default as long as the registry allows.
            device: which workers may have it, "cuda" or "any"; by default as the registry estimates.
            memory: free memory in bytes that its worker must have; by default as much as the registry estimates.
            require_worker: refuse it if no worker that is there now can run it; else it waits for one.
            idempotency_key: the same key again gives the same job.
            spec: the fields of a `TrainingSpec`, such as rank, alpha, lr, epochs and holdout.

        Returns:
            The job, whose result is the version.

        Raises:
            InvalidInput: for values and rows.
            NotFound: for files, bases, versions and checkpoints that are not there.
            QuotaExceeded: if the namespace has used up its quota.
            Unavailable: if a worker is required, and none can run it.

        Example::

            job = sdk.submit_training("code-review", base="./SmolLM2-135M", data="reviews.jsonl", rank=8, lr=2e-4)
            version = job.wait().result()
        """
        from sdk.names import check_name
        from sdk.objects import Job
        from sdk.pushing.given_base import given_base_if_any
        from sdk.submitting.given_template import with_template_text
        from sdk.submitting.job_options import checkpoint_policy, checkpoint_ref, job_options

        how = job_options(priority, timeout, device, memory, idempotency_key)._replace(require_worker=require_worker)
        request = self.submitter.training_request(
            check_name(adapter),
            with_template_text(spec, lambda: self),
            base=given_base_if_any(base, base_namespace, published),
            parent=parent,
            like=like,
            data=data,
            eval_data=eval_data,
            test_data=test_data,
            checkpoint=checkpoint_policy(checkpoint_every),
            from_checkpoint=checkpoint_ref(from_checkpoint),
        )
        return Job(self.submitter.submit(request, how), self)

    def sweep(
        self,
        adapter: str,
        *,
        base: str | Path | None = None,
        base_namespace: str | None = None,
        published: bool = False,
        parent: str | None = None,
        data: TrainingData | None = None,
        eval_data: str | Path | None = None,
        test_data: str | Path | None = None,
        max_time: float | str | None = None,
        checkpoint_every: str | None = None,
        priority: int = 0,
        timeout: float | str | None = None,
        device: Literal["any", "cuda"] | None = None,
        memory: int | None = None,
        require_worker: bool = False,
        idempotency_key: str | None = None,
        **options: Unpack[SweepKeywords],
    ) -> Sweep:
        """Train an adapter with several settings, to find out which is the best; submits it and returns at once.

        A grid tries all settings; `sample="random"` or `"tpe"` tries `trials` of them. Each is trained with `seeds` seeds, at most
        `parallel` trainings at once; no more begin after `max_gpu_hours`, or `max_time`. `stop_early="halving"` or `"median"` ends those
        that are behind. The best has the least held-out loss, or the best score of an evaluation, `choose="rouge_l"`; the others are
        worse, as good within `margin`, or not told apart. Of those that finish, `publish="best"` makes the winner the next version of
        `adapter`, "all" all of them, "none" none.

        Args:
            adapter: the name that its versions get.
            base: as for `submit_training`.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.
            parent: as for `submit_training`.
            data: as for `submit_training`.
            eval_data: held-out rows, which are needed, unless `holdout` is given.
            test_data: as for `submit_training`.
            max_time: after so long, in seconds or as "2h", no further training begins.
            checkpoint_every: as for `submit_training`.
            priority: as for `submit_training`.
            timeout: how long one attempt at one training may run, in seconds or as "2h".
            device: as for `submit_training`.
            memory: as for `submit_training`.
            require_worker: as for `submit_training`.
            idempotency_key: the same key again gives the same sweep.
            options: the fields of a `TrainingSpec`: one with several values, `rank=[1, 2, 4]` or `"1,2,4"`, or a range,
                `lr="1e-4..1e-3:log[5]"`, varies, and others are the same for all; and those of the sweep itself.

        Returns:
            The sweep, whose result is the winner's version.

        Raises:
            InvalidInput: for options and rows.
            InvalidName: for a name that can't be an adapter's.
            NotFound: for files, bases and versions that are not there.
            QuotaExceeded: if the namespace has used up its quota.
            Unavailable: if a worker is required and none can run it, or the registry lacks a library.

        Example::

            sweep = sdk.sweep("code-review", base="./SmolLM2-135M", data="reviews.jsonl", holdout=0.1, rank=[4, 8, 16], seeds=2)
            print(sweep.wait(progress=True).winner)
        """
        from sdk.nouns.sweeps import Sweep
        from sdk.pushing.given_base import given_base_if_any
        from sdk.submitting.given_template import with_template_text
        from sdk.submitting.job_options import checkpoint_policy, job_options
        from sdk.submitting.sweep_options import check_swept, divided

        asked = divided(options, max_time=max_time)
        how = job_options(priority, timeout, device, memory, idempotency_key)._replace(require_worker=require_worker)
        check_swept(adapter)
        asked.require_held_out(eval_data=eval_data)
        if parent is None:
            # Else the options that are kept are not known yet.
            asked.ahead(adapter, eval_data=eval_data)
        request = self.submitter.training_request(
            adapter,
            with_template_text(asked.of_training, lambda: self),
            base=given_base_if_any(base, base_namespace, published),
            parent=parent,
            like=None,
            data=data,
            eval_data=eval_data,
            test_data=test_data,
            checkpoint=checkpoint_policy(checkpoint_every),
        )
        return Sweep(self.submitter.submit_sweep(request, asked, how), self)

    def submit_evaluation(
        self,
        refs: str | Iterable[str],
        *,
        data: str | Path,
        base_namespace: str | None = None,
        published: bool = False,
        priority: int = 0,
        require_worker: bool = False,
        idempotency_key: str | None = None,
        only: bool = False,
        again: bool = False,
        **spec: Unpack[EvaluationOptions],
    ) -> Job[list[Evaluation]]:
        """Submit an evaluation of versions and bases on the same rows; returns at once.

        Args:
            refs: a ref or several: of versions, of members of sweeps as `sweep:ID/N`, and of bare bases as `base:NAME`.
            data: a file, or the digest or name of a dataset.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.
            priority: higher goes first within the namespace; writers may give up to 10.
            require_worker: refuse it if no worker that is there now can run it; else it waits for one.
            idempotency_key: the same key again gives the same job.
            only: leave out the bare bases and the versions in production, which otherwise are scored too, and come last.
            again: compute scores anew that are recorded for the same rows under the same conditions.
            spec: the fields of an `EvaluationSpec`, such as metrics and generate_rows.

        Returns:
            The job, whose result is a list of evaluations in the order of the targets.

        Raises:
            InvalidInput: for options and rows.
            NotFound: for versions, bases and datasets that are not there.
            Unavailable: if a worker is required and none can run it.

        Example::

            job = sdk.submit_evaluation(["code-review@v3", "base:SmolLM2-135M"], data="heldout.jsonl")
            print([scores.metrics["loss"] for scores in job.result()])
        """
        from sdk.given_values import build
        from sdk.objects import Job
        from sdk.schemas.evaluation import EvaluationSpec
        from sdk.submitting.job_options import JobOptions

        checked = build(EvaluationSpec, **spec)
        view = self.submitter.evaluation(
            refs,
            checked,
            base_namespace=base_namespace,
            published=published,
            data=data,
            only=only,
            again=again,
            job_options=JobOptions(priority, key=idempotency_key, require_worker=require_worker),
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
        """Submit the merge of a version into its base; returns at once.

        Args:
            ref: the version.
            register: a name of which the merged model becomes the next version, of the kind "merged"; `Job.result().registered` is its ref.
            priority: higher goes first within the namespace; writers may give up to 10.
            idempotency_key: the same key again gives the same job.
            spec: the fields of a `MergeSpec`, such as onto and dtype.

        Returns:
            The job, whose result is a merged model; its `save(DIR)` writes it.

        Raises:
            NotFound: if there is no such version.
            InvalidInput: for a merged model, and for a name in another namespace.
            Conflict: for a name whose versions are adapters.

        Example::

            sdk.submit_merge("code-review@v3").result().save("./merged")
        """
        from sdk.given_values import build
        from sdk.names import check_name, parse_ref
        from sdk.objects import Job
        from sdk.schemas.evaluation import MergeSpec
        from sdk.schemas.job_requests import MergeRequest
        from sdk.submitting.job_options import JobOptions

        checked = build(MergeSpec, **spec)
        name = None if register is None else check_name(register)
        request = build(MergeRequest, ref=str(parse_ref(ref)), spec=checked, register_as=name)
        return Job(self.submitter.submit(request, JobOptions(priority, key=idempotency_key)), self)

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

        Args:
            adapter: the name of which it becomes the next version.
            parents: refs and their weights, such as {"a@v2": 0.7, "b@v1": 0.3}; several weights of one version add up.
            priority: higher goes first within the namespace; writers may give up to 10.
            idempotency_key: the same key again gives the same job.
            spec: the fields of a `CombineSpec`, such as method and rank.

        Returns:
            The job, whose result is the version.

        Raises:
            InvalidInput: for versions whose sum is not a LoRA.
            InvalidBase: for versions over several bases.
            NotFound: for versions that are not there.

        Example::

            mixed = sdk.submit_combine("mix", {"code-review@v3": 0.7, "sql@v1": 0.3}, method="svd", rank=16).result()
        """
        from sdk.given_values import build
        from sdk.names import check_name
        from sdk.objects import Job
        from sdk.schemas.combination import CombineSpec
        from sdk.submitting.job_options import JobOptions
        from sdk.submitting.submitter import combine_request

        checked = build(CombineSpec, **spec)
        request = combine_request(check_name(adapter), parents, checked)
        return Job(self.submitter.submit(request, JobOptions(priority, key=idempotency_key)), self)

    def job(self, job_id: str) -> Job[Result]:
        """Return a job by its id.

        Args:
            job_id: its id, or 6 or more characters that it begins with.

        Returns:
            The job, as the registry knows it now.

        Raises:
            NotFound: if there is none, or none that may be seen.

        Example::

            print(sdk.job("3f1c2a9b7d20").state)
        """
        from sdk.objects import Job

        return Job(self.jobs.view(job_id), self)

    # Versions.

    def push(self, path: str | Path, adapter: str, *, base: str | Path, **options: Unpack[PushKeywords]) -> Version:
        """Publish an adapter from a folder that PEFT wrote; waits until it is verified and has its number.

        Everything in its `adapter_config.json` is recorded. `method` and `quantization` are not in it, and `base_revision` may be
        missing: what is neither given nor known from the base is recorded as unknown. The same bytes again give the existing version.

        Args:
            path: the folder, or `hf://org/name@revision` on a model hub.
            adapter: the name of which it becomes the next version.
            base: the folder of its base, or the id of a registered base.
            options: tags, description, method, quantization and base_revision, or `ask_revision`, which is called with the base's id to ask
                for a missing commit; `sign`, the PEM file of a private key, by default the one that `ADAPTERCTL_SIGNING_KEY` names, which
                `sign_password` opens; `claims=False` sends nothing of what a pulled folder tells of its version, which is kept as claimed
                otherwise; with `expand_patterns`, expressions in its config are replaced with the modules' names, and otherwise
                they are refused unless they are plain.

        Returns:
            The version.

        Raises:
            NotFound: for a folder or a base that is not there.
            InvalidInput: for what is no adapter.
            VerificationFailed: if admission refuses its bytes.
            NotAllowed: for readers.
            Unavailable: if neither registry nor hub answers.

        Example::

            version = sdk.push("./adapter", "code-review", base="SmolLM2-135M", tags={"language": "python"})
        """
        from sdk.objects import Version

        return Version(self.versions.push(path, adapter, base=base, **options).version, self)

    def pull(
        self,
        ref: str,
        to: str | Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: str | Path | None = None,
        require_signed_alias: str | Path | None = None,
        max_age: str = "7d",
    ) -> Path:
        """Fetch a version and return its folder.

        Args:
            ref: the version: "code-review@v3", an alias such as "code-review@production", or a digest.
            to: where to put a copy, which replaces an older version's files there. Without it the folder is the cache's own, which must
                not be edited.
            offline: use only the cache, for a version by number or digest.
            frozen: refuse a ref that may move.
            base_name: what the copy in `to` names as its base: "auto", its folder on this machine, or its name at a hub, so that
                `AutoPeftModelForCausalLM.from_pretrained` loads it from anywhere; "keep" leaves the version's bytes; anything else
                is the path or name to write. None: "auto".
            verify_with: the public key of the required signer, a PEM file.
            require_signed_alias: the public key of somebody who states what the alias names; see `promote(..., sign=...)`.
            max_age: how old that statement may be, such as "7d"; one of an earlier move than was seen before is refused.

        Returns:
            The folder.

        Raises:
            NotFound: if there is no such version.
            InvalidInput: for a ref or an option that can't be.
            Conflict: if `to` has foreign files.
            VerificationFailed: for altered bytes, and for a missing signature or statement.
            Unavailable: if neither registry nor storage answers.

        Example::

            folder = sdk.pull("code-review@production", "./adapter")
        """
        from sdk.pulling.signed_aliases import AliasSigner

        signer = None if require_signed_alias is None else AliasSigner.of(require_signed_alias, max_age)
        pulled = self.puller.pull(
            ref,
            to,
            offline=offline,
            frozen=frozen,
            base_name=base_name,
            verify_with=verify_with,
            alias_signer=signer,
        )
        return pulled.path

    def get(self, ref: str) -> Version:
        """Return the version that a ref names now, or what the member of a sweep has kept.

        Args:
            ref: "code-review@v3", "code-review" for its newest version, an alias, a digest, or `sweep:ID/N`.

        Returns:
            The version.

        Raises:
            InvalidName: for a name that can't be an adapter's.
            InvalidRef: for what is no ref.
            NotFound: if there is none.
            VerificationFailed: if the registry answers with another version than is named.

        Example::

            version = sdk.get("code-review@production")
            print(version.ref, version.metrics, version.tags)
        """
        from sdk.api import versions
        from sdk.names import parse_ref_or_member
        from sdk.objects import Version
        from sdk.pulling.pins import require_pinned

        parsed = parse_ref_or_member(ref)
        view = versions.resolve(self.transport, str(parsed))
        require_pinned(parsed, view.adapter, view.number, view.digest)
        return Version(view, self)

    def search(
        self,
        filter: str = "",  # noqa: A002 - the word that the HTTP interface and the command line have for it
        *,
        sort: str = "-created",
        limit: int | None = None,
        scores_of: str | None = None,
    ) -> TableList[Version]:
        """Return the versions that match a filter.

        Args:
            filter: comparisons such as `base = tiny and rank >= 8`; "" means every ready version.
            sort: one of -created, created, name, rank and -rank, or a score, `eval[heldout.jsonl].loss`: the best first, with a leading
                "-" the worst; versions without that score come last.
            limit: return at most this many.
            scores_of: find versions by the scores that this namespace made ("*": any). Without it, those of a version's own namespace
                count.

        Returns:
            Versions in brief; what a list doesn't show of one is fetched when it is used.

        Raises:
            InvalidInput: which says where a filter is wrong.
            NotAllowed: if anybody but an admin asks for quarantined versions.
            NotFound: if `scores_of` can't be read.

        Example::

            for version in sdk.search("base = SmolLM2-135M and rank >= 8", limit=10):
                print(version.ref, version.metrics.get("eval_loss"))
        """
        from sdk.api import versions
        from sdk.notebook.table_list import TableList
        from sdk.objects import Version

        found = versions.search(self.transport, filter, sort=sort, limit=limit, scores_of=scores_of)
        return TableList(Version(brief, self) for brief in found)

    def lineage(
        self,
        of: str,
        *,
        direction: Direction = "both",
        depth: int = 8,
        base_namespace: str | None = None,
        published: bool = False,
    ) -> Lineage:
        """Return what a version was made from (up) and what was made from it (down).

        Args:
            of: a ref, `base:` and an id or fingerprint, or `data:` and a name or digest.
            direction: "up", "down" or "both".
            depth: how many steps away, at most 32.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.

        Returns:
            Nodes and edges.

        Raises:
            InvalidName: for a name that can't be an adapter's.
            InvalidRef: for what is no ref.
            NotFound: if there is none.
            InvalidInput: for a name that means several bases.

        Example::

            print(sdk.lineage("code-review@v3", direction="up"))
        """
        from sdk.api import versions
        from sdk.names import parse_ref
        from sdk.pushing.given_base import require_one

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
        """Return how two versions differ: configuration, training, data, scores and weights.

        Args:
            a: the ref of the first.
            b: the ref of the second.
            weights: compare the weights too, which are fetched for this.

        Returns:
            The differences, which a notebook shows as tables.

        Raises:
            NotFound: if there is no such version.
            InvalidInput: for the weights of a merged model.
            VerificationFailed: for weights that can't be read.
            Unavailable: if numpy is missing.

        Example::

            print(sdk.diff("code-review@v2", "code-review@v3").configuration)
        """
        from sdk.examining.comparing import compare

        return compare(self.get(a), self.get(b), weights=weights, fill_cache=self.puller.fill_cache)

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
        """Return which of several versions, members of sweeps and bare bases scores better on the rows that all have scores for.

        Each is compared with each.

        Args:
            refs: refs of versions, "sweep:ID/N" and "base:ID".
            metric: the score that they are compared by; by default the loss.
            data: a file, or a dataset's name or digest, if there are scores on several.
            by: a column; rows with the same value in it form a group.
            examples: how many rows that changed most are shown side by side.
            detect: a difference of which the result says how many rows it needs to be shown.
            scores_of: the namespace whose scores count ("*": any). Without it, those of a version's own namespace count, and of a base
                those of the same namespace.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.

        Returns:
            The comparison, with intervals and verdicts of all pairs.

        Raises:
            NotFound: for versions without scores, and for what is not there.
            InvalidInput: for options that can't be.
            Conflict: for scores that were not taken under the same conditions.

        Example::

            found = sdk.compare(["code-review@v3", "base:SmolLM2-135M"], data="heldout.jsonl")
            print(found.pairs[0].verdict)
        """
        from sdk.examining.comparing import compare_scores

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

    def report(
        self,
        of: str | Sequence[str],
        *,
        form: Form = "html",
        rows: int = 0,
        against: str | None = None,
        metric: str | None = None,
        data: str | Path | None = None,
        by: str | None = None,
        detect: float | None = None,
        scores_of: str | None = None,
        base_namespace: str | None = None,
        published: bool = False,
    ) -> WrittenReport:
        """Return a report to send: one file, as HTML that needs nothing from elsewhere, or as Markdown.

        The registry writes it, of what this client may see.

        Args:
            of: an adapter by its name, one or up to 100 versions by their refs, "sweep:ID" or "decision:ID". Several are put side by side,
                and up to 10 are compared row by row.
            form: "html" or "markdown".
            rows: how many rows that changed most, or samples, are in it; the audit trail says so.
            against: what they are compared with; by default the first.
            metric: as for `compare`.
            data: as for `compare`.
            by: as for `compare`.
            detect: as for `compare`.
            scores_of: as for `compare`.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.

        Returns:
            The report: `.text` is the file, `.save("report.html")` writes it.

        Raises:
            NotFound: for what is not there.
            InvalidName: for a name that can't be an adapter's.
            InvalidRef: for what is no ref.
            InvalidInput: for options that can't be.
            ReadOnly: for one with rows while the registry is read-only.

        Example::

            sdk.report(["code-review@v2", "code-review@v3"]).save("report.html")
        """
        from sdk.examining.reporting import report_on

        return report_on(
            self.transport,
            of,
            format=form,
            rows=rows,
            against=against,
            metric=metric,
            data=data,
            by=by,
            detect=detect,
            scores_of=scores_of,
            base_namespace=base_namespace,
            published=published,
        )

    def plot(self, of: str | Version | Job[Any] | Sequence[str | Version | Job[Any]]) -> Plot | SweepPlot:
        """Return the curves of one or several trainings over the same steps, or a picture of a sweep.

        Curves are loss, held-out loss, learning rate and norm of the gradients; of a sweep it is the score of each setting, beside
        what it costs. A notebook shows it as it is.

        Args:
            of: a job or its id, a version or its ref, or several of these; or a sweep, as "sweep:ID".

        Returns:
            The plot: `.svg` is its text, `.save("curve.svg")` writes it, and `.save("curve.png")` where matplotlib is installed.

        Raises:
            InvalidInput: for more than can be told apart.
            InvalidName: for a name that can't be an adapter's.
            InvalidRef: for what is no ref.
            NotFound: for what is not there or has no points.

        Example::

            sdk.plot(["code-review@v2", "code-review@v3"]).save("curve.svg")
        """
        from sdk.examining.curves import curves_of
        from sdk.objects import Job, Version
        from sdk.plotting.plot import Plot

        given = [of] if isinstance(of, (str, Version, Job)) else list(of)
        each = [one.ref if isinstance(one, Version) else one.id if isinstance(one, Job) else one for one in given]
        whole = [one for one in each if one.startswith("sweep:") and "/" not in one]
        if whole and len(each) > 1:
            raise InvalidInput(
                f"{whole[0][:80]} has a picture of its own; name it alone, or its members as {whole[0][:80]}/1",
                param="of",
            )
        return self.sweeps.get(whole[0]).plot() if whole else Plot(curves_of(self, each)).checked()

    # Ahead of a training.

    def plan(
        self,
        base: str | Path,
        *,
        base_namespace: str | None = None,
        published: bool = False,
        **options: Unpack[PlanKeywords],
    ) -> Plan:
        """Return what a training over a base takes, and what to choose: parameters, bytes on disk, memory by part, and the cards it fits.

        Args:
            base: a folder, a `config.json`, or a registered base.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.
            options: `gpu`, a size ("24GB") or a GPU ("RTX 4090"), by default the smallest GPU that it fits; and fields of a `TrainingSpec`:
                what is given there is not chosen by the plan.

        Returns:
            The plan.

        Raises:
            InvalidInput: for options that can't be.
            InvalidTargets: for target modules that match nothing in the base.
            InvalidBase: for a base that can't be read.
            NotFound: if there is no such base.
            Unavailable: for a family whose shapes are unknown.

        Example::

            print(sdk.plan("./SmolLM2-135M", gpu="24GB", rank=8))
        """
        from sdk.examining.planning import plan_training

        return plan_training(self, base, base_namespace=base_namespace, published=published, **options)

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
        on_job: Callable[[Job[Preview]], object] | None = None,
        **options: Unpack[RowOptions],
    ) -> Preview:
        """Return what a training over a base would learn from the first rows of a file or a registered dataset.

        Only the base's tokenizer is loaded, in a separate process. If the worker's extra or the files of a version's base are missing
        here, this submits a job, as `datasets.submit_preview` does, and waits for it. A registry in a folder gets no such job.

        Args:
            file: the file, or the dataset by name or digest.
            of: instead of a file, a version: what its training has learnt from its dataset. Base, date and the rest come from its record.
            base: a folder, or a registered base whose files are on this machine.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.
            rows: how many rows.
            row: only the row of this number, counted from 1.
            on_job: called with the job, if one is submitted, before it is waited for.
            options: those of a training.

        Returns:
            The rows as they would be seen, with what the loss is on.

        Raises:
            NotFound: without the file, the version, its dataset, the base or the row.
            InvalidData: for rows that a training would be refused for.
            InvalidBase: for a base without a usable tokenizer.
            InvalidInput: for options that can't be.
            TimedOut: if it takes too long.
            JobFailed: if the job fails.
            Unavailable: without the worker's extra in an embedded registry.

        Example::

            print(sdk.preview("reviews.jsonl", base="./SmolLM2-135M", rows=1))
        """
        from sdk.objects import Job
        from sdk.pushing.given_base import given_base_if_any
        from sdk.submitting.data_preview import RowsOfFile, can_be_here, preview_asked, preview_here
        from sdk.submitting.given_template import rendering_of, with_template_text
        from sdk.submitting.job_options import JobOptions

        over = given_base_if_any(base, base_namespace, published)
        asked = preview_asked(file, of=of, base=over, **with_template_text(options, lambda: self))
        found = asked if isinstance(asked, RowsOfFile) else self.get(asked).info
        if self.config.home is not None or can_be_here(self.transport, self.cache, found):
            here = (self.transport, self.cache, self.puller)
            return preview_here(*here, found, rows=rows, row=row, rendering_of=partial(rendering_of, reach=self))
        view = self.submitter.preview(found, rows=rows, row=row, job_options=JobOptions(0))
        job: Job[Preview] = Job(view, self)
        if on_job is not None:
            on_job(job)
        return job.result()

    # Aliases.

    def set_alias(
        self,
        adapter: str,
        alias: str,
        version: str | int,
        *,
        expect: str | int | None = None,
        reason: str = "",
        override: bool = False,
    ) -> AliasView:
        """Point an alias at a version.

        If a policy stands for it, all of its rules must pass.

        Args:
            adapter: the name of the adapter.
            alias: the alias, such as "production".
            version: its number, as 3 or "v3".
            expect: move it only if it names this version now (0: none).
            reason: why, for the audit trail.
            override: as an admin, move it though rules don't pass; `reason` is then needed.

        Returns:
            The alias as it is now.

        Raises:
            NotFound: if there is no such version, or no such adapter.
            NotAllowed: for a protected alias.
            Conflict: if it doesn't name `expect`.
            PromotionRefused: for rules of a policy that don't pass.

        Example::

            sdk.set_alias("code-review", "production", 3, expect=2)
        """
        from sdk.api import aliases
        from sdk.given_values import alias_change, build
        from sdk.names import check_number
        from sdk.schemas.aliases import AliasMove

        change = alias_change(adapter, alias, expect, reason, override=override)
        return aliases.move(self.transport, build(AliasMove, **change, number=check_number(version)))

    def promote(
        self,
        ref: str,
        alias: str,
        *,
        expect: str | int | None = None,
        reason: str = "",
        override: bool = False,
        sign: str | Path | None = None,
        sign_password: str | None = None,
    ) -> AliasView:
        """Point an alias of the adapter at the version that a ref names now.

        To ask first whether rules let it, use `decisions.check`. If only signing fails, `statements.sign` does it without a move.

        Args:
            ref: the version.
            alias: the alias, such as "production".
            expect: move it only if it names this version now (0: none).
            reason: why, for the audit trail.
            override: as an admin, move it though rules don't pass; `reason` is then needed.
            sign: the PEM file of a private key, by which it is then stated that the alias names this version, for readers who ask for that:
                `pull(..., require_signed_alias=...)`.
            sign_password: opens that file.

        Returns:
            The alias as it is now.

        Raises:
            NotFound: if there is no such version, or no such adapter.
            NotAllowed: for a protected alias.
            Conflict: if it doesn't name `expect`.
            PromotionRefused: for rules of a policy that don't pass.

        Example::

            sdk.promote("code-review@v3", "production", reason="beats v2 on heldout.jsonl")
        """
        from sdk.given_values import check_override, require_numbered
        from sdk.names import parse_ref
        from sdk.pushing.signatures import require_own_digest
        from sdk.pushing.statements import SigningKey, state_move

        check_override(reason, override=override)
        key = None if sign is None else SigningKey.of(sign, sign_password)
        adapter = parse_ref(ref).adapter
        version = self.get(ref)
        if key is not None:
            require_own_digest(version.info)
        number = require_numbered(ref, version.number)
        moved = self.set_alias(adapter, alias, number, expect=expect, reason=reason, override=override)
        if key is not None:
            state_move(self.transport, moved, version.digest, key)
        return moved

    def rollback(
        self,
        adapter: str,
        alias: str,
        *,
        expect: str | int | None = None,
        reason: str = "",
        override: bool = False,
    ) -> AliasView:
        """Point an alias back at what it named before its last move; call it again to go back another move.

        What it named by a decision that passed needs no new one, unless a policy asks for it.

        Args:
            adapter: the name of the adapter.
            alias: the alias.
            expect: move it only if it names this version now. Without it, the alias must still name what it names at the moment of the call.
            reason: why, for the audit trail.
            override: as an admin, move it though rules don't pass; `reason` is then needed.

        Returns:
            The alias as it is now.

        Raises:
            NotFound: if there is no such version, or no such adapter.
            NotAllowed: for a protected alias.
            Conflict: if it doesn't name `expect`.
            PromotionRefused: for rules of a policy that don't pass.

        Example::

            sdk.rollback("code-review", "production", reason="answers are too long")
        """
        from sdk.api import aliases
        from sdk.given_values import alias_change, build
        from sdk.schemas.aliases import AliasRollback

        change = alias_change(adapter, alias, expect, reason, override=override)
        if expect is None:
            named = {found.alias: found.number for found in self.aliases(adapter)}
            change["expect"] = named.get(alias, 0)
        return aliases.roll_back(self.transport, build(AliasRollback, **change))

    # Asking.

    def generate(
        self,
        ref: str,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Iterable[str] = (),
        plain: bool = False,
        chat: bool = False,
        dtype: Dtype | None = None,
        keep: bool = True,
        base_namespace: str | None = None,
        published: bool | None = None,
    ) -> Generation:
        """Return what a version, or a bare base, answers; greedy by default.

        It is computed on this machine, by an engine program that then waits for the next question for as many seconds as
        `ADAPTERCTL_KEEP_WARM` says. A text is rendered as the version's own rows were: as it is, or as a user's turn for conversations.

        Args:
            ref: the version, or the bare base `base:ID`.
            prompt: a text, or the messages of a conversation.
            max_new_tokens: the most tokens that it may write.
            temperature: 0 for greedy; otherwise tokens are sampled.
            top_p: sample only from the likeliest tokens that make up this share.
            seed: the same seed gives the same samples.
            stop: end before this text, or the first of several.
            plain: render a text as it is.
            chat: render a text as a user's turn.
            dtype: what the base is held in; by default as it was trained on, and in float32 on a CPU.
            keep: let the engine program wait for the next question.
            base_namespace: whose base is meant, if the name means several: that namespace's own.
            published: the base that is published for all is meant.

        Returns:
            The answer: `completion`, and how it ended.

        Raises:
            NotFound: for what is not there.
            InvalidInput: for a version that writes no text, and for a prompt that is longer than the context.
            Conflict: for a version in quarantine.
            InvalidBase: for a base that can't be loaded.
            Unavailable: without the worker's libraries.

        Example::

            print(sdk.generate("code-review@v3", "def add(a, b):", max_new_tokens=40).completion)
        """
        from sdk.asking.asker import Asker
        from sdk.asking.prompts import PromptForm, Sampling

        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, stops)
        form = PromptForm.of(chat=chat, plain=plain)
        asker = Asker(lambda: self, config=self.config, cache=self.cache, dtype=dtype, keeps=keep)
        with closing(asker):
            target = asker.target(ref, base_namespace=base_namespace, published=published)
            given = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
            answer = asker.ask(target, form.prompt(given, target), sampling)
            for _ in answer:
                pass
            return answer.generation

    # What objects ask.

    def model_card(self, merged: MergedModel) -> str:
        """Return the model card of a merged model, as `MergedModel.save` writes it."""
        from sdk.exporting.cards import card_of

        return card_of(self, merged)
