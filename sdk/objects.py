"""What the client hands out: versions, evaluations, and jobs that can be waited for."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, cast

from sdk.errors import JobCancelled, JobFailed, NotFound, Unavailable
from sdk.notebook.table_list import TableList
from sdk.schemas.catalog import KEPT, BaseName, LoraSize, VersionBrief, VersionView
from sdk.schemas.jobs import JobView
from sdk.schemas.scores import EvaluationView
from sdk.schemas.wire import read_json

if TYPE_CHECKING:
    import pandas

    from sdk.api.jobs import JobsAPI
    from sdk.api.transport import Transport
    from sdk.pulling.cache import Cache
    from sdk.pulling.filling import OnTransfer
    from sdk.pulling.http import HttpClient
    from sdk.pulling.puller import Puller
    from sdk.pushing.pusher import Pusher
    from sdk.schemas.artifacts import Transfer
    from sdk.schemas.catalog import Parent
    from sdk.schemas.claims import ClaimsView
    from sdk.schemas.events import Event, Progress
    from sdk.schemas.jobs import AttemptView, CheckpointView, JobState
    from sdk.schemas.manifest import Manifest
    from sdk.schemas.preview import Preview
    from sdk.schemas.probe import VersionNorms
    from sdk.schemas.wire import Wire
    from sdk.submitting.submitter import JobSubmitter

Evaluation = EvaluationView

_log = logging.getLogger("adapterctl")


class Registry(Protocol):
    """The parts of a client, for its nouns and what they give out, and for what is examined or exported."""

    @property
    def transport(self) -> Transport:
        """To the registry."""

    @property
    def cache(self) -> Cache:
        """Of this machine."""

    @property
    def http(self) -> HttpClient:
        """Connections to the storage."""

    @property
    def on_transfer(self) -> OnTransfer | None:
        """Hears of bytes that were transferred."""

    @property
    def pusher(self) -> Pusher:
        """Packs and publishes."""

    @property
    def puller(self) -> Puller:
        """Fetches into the cache."""

    @property
    def submitter(self) -> JobSubmitter:
        """Submits jobs."""

    @property
    def jobs(self) -> JobsAPI[Job[Result]]:
        """Jobs."""

    def get(self, ref: str) -> Version:
        """Return the version that a ref names now."""

    def model_card(self, merged: MergedModel) -> str:
        """Return what the README.md of a merged model says."""


def registry_of_this_process() -> Registry:
    """Return whichever client is the default one when it is used: the one above this room, which `sdk` always imports."""
    return cast("Registry", importlib.import_module("sdk.default_client").RegistryOfThisProcess())


def _unpickled(kind: str, text: str) -> Any:
    """Return what was pickled, over the registry of this process, whose configuration and token it uses."""
    cls, record = _PICKLED[kind]
    return cls(read_json(record, text, open_ended=True), registry_of_this_process())


class Version:
    """One immutable version of an adapter, with its lineage in `info`.

    A search gives versions in brief: what a list shows of them is known, and what else is asked for is fetched once, all
    together, when the first of it is used. Its repr, and what a notebook shows of it, ask for nothing.

    A version can be pickled. Where it is loaded, it belongs to the default client of that process; no token is in a pickle.
    """

    def __init__(self, info: VersionView | VersionBrief, registry: Registry) -> None:
        self._known = info
        self._registry = registry

    def __repr__(self) -> str:
        return f"Version(ref={self.ref!r}, digest={self.digest[:12]!r})"

    def _repr_html_(self) -> str:
        from sdk.notebook.versions import version_page

        return version_page(self._known)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and (self.ref, self.digest) == (other.ref, other.digest)

    def __hash__(self) -> int:
        return hash((self.ref, self.digest))

    def __reduce__(self) -> tuple[Any, ...]:
        kind = "version" if isinstance(self._known, VersionView) else "brief"
        return _unpickled, (kind, self._known.model_dump_json())

    def __copy__(self) -> Version:
        # A copy in this process stays with its client.
        return Version(self._known, self._registry)

    def __deepcopy__(self, memo: object) -> Version:
        return self.__copy__()

    @property
    def info(self) -> VersionView:
        """Everything the registry said about it when it was first asked. Raises NotFound if it is gone by then."""
        if isinstance(self._known, VersionBrief):
            from sdk.api import versions
            from sdk.names import parse_ref
            from sdk.pulling.pins import require_pinned

            ref = f"{self._known.adapter}@sha256:{self._known.digest}"
            view = versions.resolve(self._registry.transport, ref)
            require_pinned(parse_ref(ref), view.adapter, view.number, view.digest)
            self._known = view
        return self._known

    @property
    def brief(self) -> VersionBrief:
        """What a list shows of it. Its `scores_of` are the namespaces that made the scores by which a search found it."""
        if isinstance(self._known, VersionBrief):
            return self._known
        shown = self._known
        same = {
            name: getattr(shown, name)
            for name in VersionBrief.model_fields
            if name not in ("base", "lora", "scores_of", "score")
        }
        base = BaseName(id=shown.base.id, revision=shown.base.revision, fingerprint=shown.base.fingerprint)
        targets = list(shown.lora.target_modules)
        lora = LoraSize(rank=shown.lora.rank, alpha=shown.lora.alpha, target_modules=targets)
        return VersionBrief(**same, base=base, lora=lora)

    @property
    def ref(self) -> str:
        """The ref that always means this version, `code-review@v3`."""
        return self._known.ref

    @property
    def adapter(self) -> str:
        """The name of the adapter."""
        return self._known.adapter

    @property
    def number(self) -> int | None:
        """Its number within the adapter."""
        return self._known.number

    @property
    def digest(self) -> str:
        """SHA-256 of its manifest."""
        return self._known.digest

    @property
    def state(self) -> str:
        """Its state when the registry was last asked: "ready", "archived" …"""
        return self._known.state

    @property
    def kind(self) -> str:
        """Either "adapter", or "merged" for a model."""
        return self._known.kind

    @property
    def aliases(self) -> list[str]:
        """The aliases that named it when the registry was last asked."""
        return list(self._known.aliases)

    @property
    def tags(self) -> dict[str, str]:
        """Its tags when the registry was last asked."""
        return dict(self._known.tags)

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured when it was made: loss, eval_loss … Its scores since then are `evaluations`."""
        return dict(self._known.metrics)

    @property
    def base(self) -> BaseName:
        """The base that it is over: id, revision, fingerprint. `info.base` has its architecture too."""
        return self.brief.base

    @property
    def lora(self) -> LoraSize:
        """Rank, alpha and target modules. `info.lora` has the whole configuration."""
        return self.brief.lora

    @property
    def method(self) -> str:
        """How it was trained: "qlora", "lora", or "unknown"."""
        return self._known.method

    @property
    def created_at(self) -> datetime:
        """When it was made, in UTC."""
        return self._known.created_at

    @property
    def created_by(self) -> str:
        """The token, or the user, that made it."""
        return self._known.created_by

    @property
    def parents(self) -> list[Parent]:
        """The versions that it was made from, each with its relation and weight. Of what a search found, this is fetched."""
        return list(self.info.parents)

    @property
    def lineage(self) -> dict[str, Any]:
        """What it was made from: base, LoRA configuration, quantisation, dataset, training, job, libraries, parents."""
        keys = {"base", "lora", "quantization", "dataset", "training", "metrics", "parents", "job", "libraries"}
        return self.info.model_dump(mode="json", include=keys)

    @property
    def evaluations(self) -> list[Evaluation]:
        """Its scores, as they are now: those that its own namespace made."""
        from sdk.formats.refs import namespace_of

        return self.scores_of(namespace_of(self.adapter) or "-")

    def scores_of(self, namespace: str) -> list[Evaluation]:
        """Return the scores of its bytes that a namespace made ("*": any). Raises NotFound if it can't be read."""
        from sdk.api.evaluations import EvaluationRoutes

        return EvaluationRoutes(self._registry.transport).list(digest=self.digest, scores_of=namespace)

    @property
    def norms(self) -> VersionNorms | None:
        """The norm of ΔW of each module, as the registry derived it from the bytes; None if it has none, as for what the
        member of a sweep has kept.
        """
        from sdk.api import versions
        from sdk.schemas.catalog import KEPT

        if self.state == KEPT:
            return None
        return versions.norms(self._registry.transport, self.ref)

    @property
    def claimed(self) -> ClaimsView | None:
        """What the folder that it was pushed from has told of it, as another registry wrote it; None if nothing.

        Nobody here has checked it, and nothing is decided by it, unless its state is "signed", by a key that this registry lists.
        """
        from sdk.api import versions
        from sdk.schemas.catalog import KEPT

        return None if self.state == KEPT else versions.claims(self._registry.transport, self.ref)

    def pull(self, to: str | Path | None = None) -> Path:
        """Fetch its files; see `Client.pull`. Raises VerificationFailed if the registry has other bytes under its ref, as another
        registry may have that a version was pickled for.
        """
        # What a member of a sweep has kept may have become another since.
        digest = None if self.state == KEPT else self.digest
        return self._registry.puller.pull(self.ref, to, digest=digest).path

    def as_dict(self) -> dict[str, Any]:
        """Everything that `adapterctl show` prints, as plain values."""
        shown = self.info.model_dump(mode="json")
        norms = self.norms
        shown["norms"] = None if norms is None else norms.norms
        shown["replaced"] = None if norms is None or norms.norms is None else norms.replaced
        claimed = self.claimed
        shown["claimed"] = None if claimed is None else claimed.model_dump(mode="json")
        shown["evaluations"] = [evaluation.model_dump(mode="json") for evaluation in self.evaluations]
        return shown


class MeasuredPoints(TableList[dict[str, float]]):
    """What a training measured: for each step a mapping with `step` and the numbers of that step, in rising order.

    Of steps that are long past there is one for each bucket of them, with the means, at its last step.
    """

    def frame(self) -> pandas.DataFrame:
        """A DataFrame with the step as its index, and NaN where a step has no such number.

        Raises Unavailable if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise Unavailable(
                "a DataFrame needs pandas, which is not installed; run: pip install pandas, or use the list itself"
            ) from error
        names = dict.fromkeys(name for point in self for name in point if name != "step")
        return pandas.DataFrame(list(self), columns=["step", *names]).set_index("step")


#: What a job produces: a training or a combination a Version, an evaluation a list of Evaluations, a merge a
#: MergedModel, a preview a Preview.
Result: TypeAlias = "Version | list[Evaluation] | MergedModel | Preview"
R = TypeVar("R", covariant=True, bound="Result")


class Job(Generic[R]):
    """A job, typed by its result. It keeps running whatever happens to this object.

    A job can be pickled, and be waited for in another process: it then belongs to the default client there. No token is in a
    pickle.
    """

    def __init__(self, view: JobView, registry: Registry) -> None:
        self._view = view
        self._registry = registry

    def __repr__(self) -> str:
        return f"Job(id={self.id!r}, kind={self._view.kind!r}, state={self._view.state.value!r})"

    def _repr_html_(self) -> str:
        from sdk.notebook.jobs import job_page

        return job_page(self._view)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, ("job", self._view.model_dump_json())

    def __copy__(self) -> Job[R]:
        return Job(self._view, self._registry)

    def __deepcopy__(self, memo: object) -> Job[R]:
        return self.__copy__()

    @property
    def id(self) -> str:
        """Its id."""
        return self._view.id

    @property
    def view(self) -> JobView:
        """Everything the registry said about it when last asked."""
        return self._view

    @property
    def state(self) -> JobState:
        """Its state now: asks the registry unless the state is already final."""
        if not self._view.state.is_final:
            self._view = self._registry.jobs.view(self.id)
        return self._view.state

    @property
    def error(self) -> JobFailed | None:
        """Why it ended without a result, or None."""
        from sdk.schemas.failures import FailureReason
        from sdk.schemas.jobs import JobState

        view = self._view
        if view.state is JobState.FAILED:
            message = view.message or "it left no message"
            return JobFailed(f"job {view.id} failed ({view.reason}): {message}", reason=view.reason)
        if view.state is JobState.CANCELLED:
            place = view.request.get("sweep")
            again = (
                f"run it again with: adapterctl jobs retry {view.id}"
                if place is None
                else f"see: adapterctl sweep show {place['sweep']}"
            )
            return JobCancelled(f"job {view.id} was cancelled; {again}", reason=FailureReason.CANCELLED)
        return None

    def events(self, follow: bool = False, after: int = 0) -> Iterator[Event]:
        """Yield events after the cursor `after`; with `follow`, continue until the job has ended.

        While the registry is unavailable, following waits, and logs that.
        """
        from sdk.submitting import job_output

        if follow:
            news = job_output.follow([self], note=_log.warning, after=after)
            yield from (event for _, event in news if event is not None)
            return
        while found := self._registry.jobs.events(self.id, after=after):
            yield from found
            after = found[-1].seq

    def poll_events(self, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        """Return events after the cursor `after`, or only the `last` few; waits up to `wait_s` seconds for one."""
        return self._registry.jobs.events(self.id, after=after, wait_s=wait_s, last=last)

    def wait(self, timeout: float | None = None, progress: bool | Callable[[Progress], object] | None = None) -> Job[R]:
        """Wait until it has ended, even while the registry is unavailable, which is logged; `timeout` in seconds. `progress` is
        called with how far it is, whenever that has changed; True shows a bar in a notebook or on a terminal, and else writes
        lines to standard error.

        Raises JobFailed or JobCancelled if it ended without a result, TimedOut.
        """
        from sdk.submitting import job_output
        from sdk.submitting.job_bars import shown

        with shown(self.view, progress) as show:
            for _, event in job_output.follow([self], note=_log.warning, timeout_s=timeout, last=1):
                if event is not None and event.progress is not None:
                    show(event.progress)
        if (error := self.error) is not None:
            raise error
        return self

    def cancel(self) -> Job[R]:
        """Cancel it; a running job stops at its worker's next heartbeat.

        Raises Conflict for one that has succeeded or failed, NotAllowed.
        """
        self._view = self._registry.jobs.cancel(self.id)
        return self

    def retry(self, *, advice: bool = False) -> Job[R]:
        """Submit it again, as a new job; a training resumes from its last checkpoint.

        With `advice`, a training that has ended begins anew, changed as its own numbers advise. Raises Conflict for a job that has
        a result or is still running, or has no advice, NotAllowed, QuotaExceeded.
        """
        return Job(self._registry.jobs.retry(self.id, advice=advice).view, self._registry)

    def attempts(self) -> list[AttemptView]:
        """The attempts at it so far, oldest first: worker, state, reason, and when each began and ended."""
        return self._registry.jobs.attempts(self.id)

    def checkpoints(self) -> list[CheckpointView]:
        """Its stored checkpoints, newest first; sizes in bytes."""
        return self._registry.jobs.checkpoints(self.id)

    def metrics(self) -> MeasuredPoints:
        """What it measured, by step: `{"step": 3, "loss": 1.5, "lr": 0.0002, …}`; none for a job that measures nothing."""
        points = self._registry.jobs.series(self.id).points()
        return MeasuredPoints({"step": point.step, **point.values} for point in points)

    def publish(
        self,
        *,
        step: int | None = None,
        adapter: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Version:
        """Make a version from the checkpoint at a step, by default the last one, even while the job runs.

        It becomes a version of `adapter`, by default the one that the job trains. Raises NotFound, InvalidName,
        NotAllowed, VerificationFailed if admission refuses its bytes.
        """
        published = self._registry.jobs.publish_checkpoint(
            self.id, step, adapter=adapter, tags=tags, description=description
        )
        return Version(published.version, self._registry)

    def result(self) -> R:
        """Wait, then return what it made: a Version, a list of evaluations, a merged model, or a preview."""
        self.wait()
        # The job's kind determines the result's type, and was known when this object was created.
        return cast("R", _RESULTS.get(self._view.kind, _version)(self._view, self._registry))


@dataclass(frozen=True)
class MergedModel:
    """A merged model in the registry's storage. It can be pickled, as a job can."""

    #: The version that was merged.
    ref: str
    manifest: Manifest
    #: How it was merged, and how close it is to base-as-trained + adapter.
    report: dict[str, Any]
    _registry: Registry
    #: The ref of the version that it became, such as `code-review-merged@v1`; None if it was not registered. `existing`
    #: says whether the same bytes were that version already.
    registered: str | None = None
    existing: bool = False

    def __repr__(self) -> str:
        return f"MergedModel(ref={self.ref!r}, digest={self.digest[:12]!r}, registered={self.registered!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        known = (self.ref, self.manifest.model_dump_json(), self.report, self.registered, self.existing)
        return _unpickled_model, known

    def __copy__(self) -> MergedModel:
        return replace(self)

    def __deepcopy__(self, memo: object) -> MergedModel:
        return replace(self, report=deepcopy(self.report))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its manifest."""
        return self.manifest.digest

    @property
    def version(self) -> Version | None:
        """The version that it became; None if it was not registered."""
        return None if self.registered is None else self._registry.get(self.registered)

    def save(self, to: str | Path) -> Path:
        """Write its files and a model card into the new folder `to`; return that. Raises Conflict if it has files."""
        from sdk.formats.base_files import CARD_FILE

        return self._registry.puller.save(self.manifest, Path(to), beside={CARD_FILE: self._registry.model_card(self)})

    def locate(self) -> list[Transfer]:
        """Where to fetch its files from."""
        from sdk.api.artifacts import locate_files

        return locate_files(self._registry.transport, self.digest)


def _unpickled_model(
    ref: str, manifest: str, report: dict[str, Any], registered: str | None, existing: bool
) -> MergedModel:
    from sdk.schemas.manifest import Manifest

    found = read_json(Manifest, manifest, open_ended=True)
    return MergedModel(ref, found, report, registry_of_this_process(), registered=registered, existing=existing)


#: What a pickle names, and the record that it holds.
_PICKLED: dict[str, tuple[Any, type[Wire]]] = {
    "version": (Version, VersionView),
    "brief": (Version, VersionBrief),
    "job": (Job, JobView),
}


def _version(view: JobView, registry: Registry) -> Version:
    return registry.get((view.result or {})["ref"])


def _evaluations(view: JobView, registry: Registry) -> list[Evaluation]:
    if (error := unscored(view)) is not None:
        raise error
    return scores_of(view, registry)


def scores_of(view: JobView, registry: Registry) -> list[Evaluation]:
    """Return the scores of an evaluation in the order of its targets, including those recorded before it."""
    from sdk.api.evaluations import EvaluationRoutes

    result = view.result or {}
    order = list(result.get("evaluations", []))
    scores = EvaluationRoutes(registry.transport)
    found = scores.list(job=view.id) + [scores.get(ident) for ident in result.get("recorded", [])]
    return TableList(sorted(found, key=lambda one: order.index(one.id) if one.id in order else len(order)))


def scored_beside(view: JobView) -> dict[str, str]:
    """Return why the registry added targets to an evaluation, by their refs: "base" or "production"."""
    targets = [one for one in view.request.get("targets", []) if isinstance(one, dict) and one.get("beside")]
    return {one.get("ref") or f"base:{one['base']['id']}": one["beside"] for one in targets}


def failed_targets(view: JobView, *, beside: bool) -> list[tuple[str, str, str]]:
    """Return the ref, reason and message of each target without scores.

    They are those that were requested or, with `beside`, those that the registry added.
    """
    added = scored_beside(view)
    failed = [one for one in (view.result or {}).get("failed", []) if isinstance(one, dict)]
    told = [(str(one.get("ref")), str(one.get("reason")), str(one.get("message"))) for one in failed]
    return [one for one in told if (one[0] in added) == beside]


def unscored(view: JobView) -> JobFailed | None:
    """Return an error that names the requested targets without scores, or None if all have scores."""
    failed = failed_targets(view, beside=False)
    if not failed:
        return None
    said = "; ".join(f"{ref}: {message}" for ref, _, message in failed)
    scored = len((view.result or {}).get("evaluations", []))
    return JobFailed(
        f"job {view.id} scored {scored} of {scored + len(failed)} targets, whose scores are kept; {said}",
        reason=failed[0][1],
    )


def _preview(view: JobView, registry: Registry) -> Preview:
    # Lists of jobs leave the result out.
    from sdk.schemas.preview import Preview
    from sdk.schemas.wire import read

    found = view.result or registry.jobs.view(view.id).result or {}
    if "preview" not in found:
        raise NotFound(
            f"the preview of job {view.id} is no longer kept: previews last some days, or until their rows are removed; preview the rows again"
        )
    return read(Preview, found["preview"])


def _merged(view: JobView, registry: Registry) -> MergedModel:
    from sdk.schemas.manifest import Manifest

    found = view.result or {}
    manifest = Manifest.model_validate(found["manifest"])
    return MergedModel(
        ref=found["ref"],
        manifest=manifest,
        report=found["report"],
        _registry=registry,
        registered=found.get("version"),
        existing=bool(found.get("existing")),
    )


#: What `Job.result` returns, by kind of job; for any other kind it is a version.
_RESULTS: dict[str, Callable[[JobView, Registry], Result]] = {
    "training": _version,
    "evaluation": _evaluations,
    "merge": _merged,
    "combine": _version,
    "preview": _preview,
}
