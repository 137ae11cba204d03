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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from sdk.allowed_locations import Reach
from sdk.api import aliases, versions
from sdk.api.access import AuditAPI, QuotasAPI, TokensAPI
from sdk.api.aliases import AliasesAPI
from sdk.api.jobs import JobsAPI
from sdk.api.removal import RetentionAPI
from sdk.api.transport import Transport
from sdk.api.versions import AdaptersAPI
from sdk.api.workers import WorkersAPI
from sdk.asking.asker import Asker, Dtype, Generation
from sdk.asking.prompts import PromptForm, Sampling
from sdk.config import Config
from sdk.config import load as load_config
from sdk.errors import InvalidInput
from sdk.examining.comparing import compare, compare_scores
from sdk.examining.planning import plan_training
from sdk.examining.reporting import Form, WrittenReport, report_on
from sdk.exporting.cards import card_of
from sdk.names import check_name, check_number, parse_ref, parse_ref_or_member
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
from sdk.pulling.api_source import ApiSource
from sdk.pulling.cache import Cache
from sdk.pulling.filling import OnTransfer
from sdk.pulling.http import HttpClient
from sdk.pulling.pins import require_pinned
from sdk.pulling.puller import Puller
from sdk.pulling.signed_aliases import AliasSigner
from sdk.pushing.given_base import given_base_if_any, require_one
from sdk.pushing.pusher import Pusher, PushKeywords
from sdk.pushing.signatures import require_own_digest
from sdk.pushing.statements import SigningKey, state_move
from sdk.schemas.aliases import AliasMove, AliasRollback, AliasView
from sdk.schemas.catalog import VersionBrief
from sdk.schemas.combination import CombineSpec
from sdk.schemas.diff import Diff
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec
from sdk.schemas.job_requests import MergeRequest
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
from sdk.submitting.data_preview import RowsOfFile, can_be_here, preview_asked, preview_here
from sdk.submitting.given_data import TrainingData
from sdk.submitting.given_template import rendering_of, with_template_text
from sdk.submitting.job_options import JobOptions, checkpoint_policy, checkpoint_ref, job_options
from sdk.submitting.submitter import JobSubmitter, combine_request
from sdk.submitting.sweep_options import check_swept, divided
from sdk.validation import alias_change, build, check_override, require_numbered

if TYPE_CHECKING:
    from sdk.plotting.plot import Plot, SweepPlot

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
        #: Connections to the storage, reused from one file to the next.
        self.http = HttpClient(self.reach)
        self.on_transfer = on_transfer
        self.pusher = Pusher(self.transport, self.cache, on_transfer)
        #: Sends files straight to storage, ahead of what refers to them.
        self.uploader = self.pusher.uploader
        #: Fetches versions, and the files of any manifest.
        self.puller = Puller(
            ApiSource(self.transport), self.cache, self.config.url, http=self.http, on_transfer=on_transfer
        )
        self.submitter = JobSubmitter(self.transport, self.pusher, partial(rendering_of, reach=self))
        self.adapters: AdaptersAPI = AdaptersAPI(self.transport)
        self.aliases: AliasesAPI = AliasesAPI(self.transport)
        self.approvals: ApprovalsAPI = ApprovalsAPI(self)
        self.audit: AuditAPI = AuditAPI(self.transport)
        self.bases: BasesAPI = BasesAPI(self)
        self.datasets: DatasetsAPI = DatasetsAPI(self)
        self.decisions: DecisionsAPI = DecisionsAPI(self)
        self.evaluations: EvaluationsAPI = EvaluationsAPI(self)
        self.jobs: JobsAPI[Job[Result]] = JobsAPI(self.transport, lambda view: Job(view, self))
        self.policies: PoliciesAPI = PoliciesAPI(self)
        self.quotas: QuotasAPI = QuotasAPI(self.transport)
        self.retention: RetentionAPI = RetentionAPI(self.transport)
        self.signatures: SignaturesAPI = SignaturesAPI(self)
        self.statements: StatementsAPI = StatementsAPI(self)
        self.sweeps: SweepsAPI = SweepsAPI(self)
        self.tokens: TokensAPI = TokensAPI(self.transport)
        self.versions: VersionsAPI = VersionsAPI(self)
        self.workers: WorkersAPI = WorkersAPI(self.transport)

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
        idempotency_key: str | None = None,
        **spec: Unpack[TrainingOptions],
    ) -> Job[Version]:
        """Submit a training and return at once; `spec` are the fields of `TrainingSpec` (rank, alpha, lr, …).

        `base` is a folder (`./base`), the id of a registered base, or a hub name (`org/name@revision`). If an id means
        several bases, `base_namespace` or `published` says whose is meant; the job keeps the fingerprint. `data`,
        `eval_data` and `test_data` are files, digests of datasets or their first 12 digits, or names such as "reviews" or
        "reviews@v2". Rows of `eval_data` are looked at while it trains, and may choose which weights are published; those of
        `test_data` only tell how good these are.
        `data` may be several of these, or their weights: with {"a.jsonl": 3, "reviews@v2": 1}, three rows in four are
        from the first. With `parent`, such as "code-review@v3", the training continues that version: it starts with its
        matrices, over its base and with its LoRA configuration. With `like`, the training of that version is repeated
        from its record; none of `base`, `parent`, `data`, `eval_data`, `test_data`, `from_checkpoint` and `spec` may then be
        given.

        `checkpoint_every` is "10m", "90s", "50steps" or "never". `from_checkpoint`, "JOB" or "JOB@STEP", is the
        checkpoint to start from, of a training with the same base, data and spec. One attempt may run for `timeout`
        seconds, or "2h"; by default as long as the registry allows. It goes to a worker with that `device` and that
        much free `memory` in bytes; by default as much as the registry estimates. Raises InvalidInput for values and
        rows, NotFound for files, bases and checkpoints.
        """
        how = job_options(priority, timeout, device, memory, idempotency_key)
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
        idempotency_key: str | None = None,
        **options: Unpack[SweepKeywords],
    ) -> Sweep:
        """Train an adapter with several settings, to find out which is the best; submits it and returns at once.

        `options` are the fields of `TrainingSpec`: one with several values, `rank=[1, 2, 4]` or `"1,2,4"`, or a range,
        `lr="1e-4..1e-3:log[5]"`, varies, and others are the same for all. A grid tries all settings; `sample="random"` or
        `"tpe"` tries `trials` of them. Each is trained with `seeds` seeds, at most `parallel` trainings at once; no more begin
        after `max_gpu_hours`, or `max_time` ("2h"). `stop_early="halving"` or `"median"` ends those that are behind. The
        best has the least held-out loss, or the best score of an evaluation, `choose="rouge_l"`; the others are worse, as
        good within `margin`, or not told apart. Of those that finish, `publish="best"` makes the winner the next version of
        `adapter`, "all" all of them, "none" none.

        Held-out rows are needed, as `eval_data` or `holdout`. Everything else is as for `submit_training`. Raises InvalidInput
        for options and rows, InvalidName, NotFound, QuotaExceeded.
        """
        asked = divided(options, max_time=max_time)
        how = job_options(priority, timeout, device, memory, idempotency_key)
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
        idempotency_key: str | None = None,
        only: bool = False,
        again: bool = False,
        **spec: Unpack[EvaluationOptions],
    ) -> Job[list[Evaluation]]:
        """Submit an evaluation of versions, of members of sweeps as `sweep:ID/N`, and of bare bases as `base:NAME`, on the same
        rows; returns at once.

        `base_namespace` or `published` says whose bases are meant, if a name means several.

        Unless `only`, their bare bases and the versions in production are scored too, and come last. Unless `again`,
        earlier scores on the same rows under the same conditions are taken from the record.
        """
        checked = build(EvaluationSpec, **spec)
        view = self.submitter.evaluation(
            refs,
            checked,
            base_namespace=base_namespace,
            published=published,
            data=data,
            only=only,
            again=again,
            job_options=JobOptions(priority, key=idempotency_key),
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

        It becomes the next version of `adapter`. `parents` are refs and their weights, such as
        {"a@v2": 0.7, "b@v1": 0.3}; several weights of one version add up. `spec` are the fields of `CombineSpec`.
        Raises InvalidInput for versions whose sum is not a LoRA, InvalidBase for several bases, NotFound.
        """
        checked = build(CombineSpec, **spec)
        request = combine_request(check_name(adapter), parents, checked)
        return Job(self.submitter.submit(request, JobOptions(priority, key=idempotency_key)), self)

    def job(self, job_id: str) -> Job[Result]:
        """Return a job by its id. Raises NotFound."""
        return Job(self.jobs.view(job_id), self)

    # Versions.

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
        """Fetch a version and return its folder, which PEFT and vLLM load as it is.

        Without `to` it is the cache's own folder, which must not be edited; with `to` it is a copy, which replaces an
        older version's files there, and in which `base_name` may replace the base's name. `offline` uses only the
        cache, for a version by number or digest; `frozen` refuses a ref that may move; `verify_with` is the public key
        of the required signer. With `require_signed_alias`, the public key of somebody who states what the alias names,
        a statement that is older than `max_age`, or of an earlier move than was seen before, is refused; see
        `promote(..., sign=...)`. Raises NotFound, InvalidInput, Conflict if `to` has foreign files, VerificationFailed,
        Unavailable.
        """
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
        """Return the version that `ref` names now, or what the member of a sweep, `sweep:ID/N`, has kept.

        Raises InvalidName, InvalidRef, NotFound, VerificationFailed.
        """
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
    ) -> list[VersionBrief]:
        """The versions that match `filter`, such as `base = tiny and rank >= 8`, at most `limit`.

        `sort` is one of -created, created, name, rank and -rank, or a score, `eval[heldout.jsonl].loss`: the best first, with a
        leading "-" the worst; versions without that score come last.
        A version is found by the scores that its own namespace made, or by those of `scores_of`: a namespace, or "*"
        for any. Raises InvalidInput, which says where a filter is wrong; NotAllowed if anybody but an admin asks for
        quarantined versions; NotFound if `scores_of` can't be read.
        """
        return list(versions.search(self.transport, filter, sort=sort, limit=limit, scores_of=scores_of))

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
        """Which of several versions, members of sweeps ("sweep:ID/N") and bare bases ("base:ID") scores better on the rows that
        all have scores for.

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

        It is about an adapter by its name, about one or up to 100 versions by their refs, about "sweep:ID" or "decision:ID".
        Several are put side by side, and up to 10 are compared row by row with `against`, or else with the first, as
        `compare` does it. The registry writes it, of what this client may see. With `rows`, so many rows that changed most, or
        samples, are in it, and the audit trail says so. `.text` is the file, `.save("report.html")` writes it. Raises
        NotFound, InvalidName, InvalidRef, InvalidInput; ReadOnly for one with rows while the registry is read-only.
        """
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

    def plot(self, of: str | Sequence[str]) -> Plot | SweepPlot:
        """The curves of one or several trainings over the same steps, each named by its job's id or its version's ref; or a
        sweep, as "sweep:ID".

        Curves are loss, held-out loss, learning rate and norm of the gradients; of a sweep it is the score of each setting,
        beside what it costs. A notebook shows it as it is; `.svg` is its text, `.save("curve.svg")` writes it, and
        `.save("curve.png")` where matplotlib is installed. Raises InvalidInput for more than can be told apart, InvalidName,
        InvalidRef, NotFound for what is not there or has no points.
        """
        from sdk.examining.curves import curves_of
        from sdk.plotting.plot import Plot

        each = [of] if isinstance(of, str) else list(of)
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
        """What a training over a base takes, and what to choose.

        That is parameters, bytes on disk, memory by part, and the cards it fits. `base` is a folder, a `config.json`,
        or a registered base; `base_namespace` and `published` say whose, if its name means several. `gpu` is a size
        ("24GB") or a card ("RTX 4090"); None means the smallest card that fits. Further `options` are fields of a
        `TrainingSpec`; what is given there is not chosen by the plan. Raises InvalidInput, InvalidTargets, InvalidBase,
        NotFound, Unavailable for a family whose shapes are unknown.
        """
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
        """What a training over `base` would learn from the first `rows` rows of a file or a registered dataset.

        With `row`, only from the row of that number, counted from 1. With `of` instead of a file, what the training of
        that version has learnt from its dataset: base, date and the rest come from its record. `base` is a folder, or a
        registered base whose files are on this machine; only its tokenizer is loaded, in a separate process.
        `options` are those of a training.

        If the worker's extra or the files of a version's base are missing here, this submits a job, as `datasets.submit_preview`
        does, and waits for it; `on_job` is called with the job first. A registry in a folder gets no such job. Raises
        NotFound without the file, the version, its dataset, the base or the row; InvalidData, InvalidBase, InvalidInput
        for whatever a training would be refused for; TimedOut; JobFailed; Unavailable without the worker's extra in an
        embedded registry.
        """
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
        """Point an alias at a version; with `expect` only if it names that version now (0: none).

        If a policy stands for it, all of its rules must pass; an admin may `override` that with a `reason`, which stays in the
        audit trail. Raises NotFound, NotAllowed for a protected alias, Conflict, and PromotionRefused for rules that don't pass.
        """
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
        """Point an alias of the adapter at the version that `ref` names now; see `set_alias`. To ask first, use `decisions.check`.

        With `sign`, the PEM file of a private key, it is then stated that the alias names this version, for readers who
        ask for that: `pull(..., require_signed_alias=...)`. If only that fails, `statements.sign` does it without a move.
        """
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

        Without `expect`, the alias must still name what it names at the moment of the call. What it named by a decision that
        passed needs no new one, unless a policy asks for it. Raises NotFound, NotAllowed, Conflict, PromotionRefused.
        """
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
        """What a version, or the bare base `base:ID`, answers; greedy by default. `base_namespace` or `published` says whose base.

        A text is rendered as the version's own rows were: as it is, or as a user's turn for conversations; `plain` or `chat`
        says which. Messages are a conversation. The base is held as it was trained on, in float32 on a CPU, unless in `dtype`.
        It is computed on this machine, by an engine program that then waits for the next question for as many seconds as
        `ADAPTERCTL_KEEP_WARM` says, or ends if not to `keep`. Raises NotFound, InvalidInput for a version that writes no text, and
        for a prompt that is longer than the context; Conflict for one in quarantine; InvalidBase; Unavailable without the
        worker's libraries.
        """
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
        return card_of(self, merged)
