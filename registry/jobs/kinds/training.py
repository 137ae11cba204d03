"""Trainings: over one base, on datasets, perhaps continued from a checkpoint; the adapter becomes a version.

One that is repeated is checked to be the training that a version's record names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Origin
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, require_digest, space_to_change
from registry.catalog.versions.kinds import require_name_of_kind
from registry.catalog.versions.served_probes import keep_trained
from registry.db.database import Database
from registry.db.stored_json import table
from registry.db.types import db_now
from registry.errors import Invalid, InvalidTargets
from registry.jobs import attempts
from registry.jobs.advice import ADVICE, changed_since
from registry.jobs.base_contents import BaseContents, contents_of, require_fitting
from registry.jobs.checkpoint_pins import keep_checkpoint, other_than, pin_checkpoint, resume_point, training_of
from registry.jobs.forecasts import of_training
from registry.jobs.kinds.parents import pin_parent, require_same_lora
from registry.jobs.kinds.rules import CompletionServices, Examined, HandedIn, JobKindRules
from registry.jobs.kinds.training_outcome import report_of, require_learnt, settle
from registry.jobs.models import Job
from registry.jobs.objectives import pin_objective, require_watchable
from registry.jobs.peaks import note_peak
from registry.jobs.pins import Pinned, pin_base, pin_data, pin_sources, require_causal, today
from registry.jobs.seen_rows import keep_rows
from registry.jobs.sources import JobInputs, base_source, version_source
from registry.jobs.stored_checkpoints import store_checkpoint
from registry.principal import Principal
from sdk.formats.base_files import positions_of
from sdk.formats.objectives import traits_of
from sdk.lora.stored_quantization import require_method
from sdk.lora.targets import unfit_targets
from sdk.lora.variants import unfit_options
from sdk.schemas.catalog import JobRef, Publication
from sdk.schemas.held_out import both_held_out
from sdk.schemas.job_requests import SweepPlace, TrainingRequest
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec, clash_of
from sdk.schemas.training_warnings import training_warnings
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.work import Completion

_DATASETS = ("data", "eval_data", "test_data", "sources")
_DEFAULT_LENGTH = TrainingSpec().max_length


#: A worker names fewer than ten of them.
_MOST_LIBRARIES = 40


def _pin(session: Session, request: TrainingRequest, who: Principal, embedded: bool) -> Pinned[TrainingRequest]:
    namespace = space_to_change(request.adapter, who)
    require_name_of_kind(session, request.adapter, "adapter")
    if request.eval_data is not None and request.spec.hold_out is not None:
        raise Invalid(both_held_out(), param="spec.holdout")
    single = ("data", "eval_data", "test_data")
    named = pin_data(session, request, single, who, namespace)
    sources = pin_sources(session, request, who, namespace)
    every = [(field, named[field]) for field in single if field in named]
    every += [("data", source.data) for source in sources or ()]
    objective = pin_objective(session, request.spec, every, who, namespace)
    require_watchable(session, request, [digest for field, digest in every if field == "data"], who, namespace)
    choice, base = pin_base(session, request.base, namespace, embedded)
    spec = request.spec
    if objective is not None:
        if said := clash_of(spec.model_copy(update={"objective": objective})):
            raise Invalid(said, param="spec")
        if objective != "sft":
            spec = spec.model_copy(update={"objective": objective})
    parent = pin_parent(session, request.model_copy(update={"spec": spec}), who, namespace, base)
    settled = request.model_copy(update={"base": choice, "spec": spec, "parent": parent, "sources": sources, **named})
    exact = pin_checkpoint(session, pin_like(session, settled, who, namespace), who)
    exact = exact.model_copy(update={"template_date": exact.template_date or today(session)})
    return Pinned(
        exact, namespace, request.adapter, base, causal=objective is not None and traits_of(objective).predicts_tokens
    )


def _examine(db: Database, pinned: Pinned[TrainingRequest]) -> Examined[TrainingRequest]:
    """Raises Invalid, InvalidBase, InvalidTargets for what can't be trained over the base, or continued so."""
    request, spec, packed = pinned.request, pinned.request.spec, False
    base = None if pinned.base is None else contents_of(db, pinned.base)
    if base is not None:
        if pinned.causal:
            require_causal(base)
        _require_positions(spec, base)
        _require_targets(base, spec)
        fits = partial(require_method, method=spec.method, quant_type=spec.quant_type, double_quant=spec.double_quant)
        packed = require_fitting(base, fits)
    if request.parent is not None:
        require_same_lora(db, request.parent, spec)
    estimate = of_training(base, spec, packed=packed)
    return Examined(request, estimate.on_cards() if spec.optimizer.needs_card else estimate)


def _require_positions(spec: TrainingSpec, base: BaseContents) -> None:
    """Raise Invalid for rows longer than the base has positions for; a length that nobody asked for is reduced to
    them.
    """
    length, positions = spec.max_length, positions_of(base.config)
    if positions is not None and length > positions and length != _DEFAULT_LENGTH:
        raise Invalid(
            f"max_length is {length}, but base {base.id} has only {positions} positions; give {positions} or less",
            param="spec.max_length",
        )


def _require_targets(base: BaseContents, spec: TrainingSpec) -> None:
    """Raise InvalidTargets for what can't be trained by a base's shapes, as the worker would."""
    kind = str(base.config.get("model_type", ""))
    if said := unfit_targets(spec.targets, base.tensors, model_type=kind, exclude=spec.exclude):
        raise InvalidTargets(f"base {base.id} {said}", param="spec.targets")
    if unfit := unfit_options(spec, base.tensors, base.config):
        raise Invalid(f"{unfit.param} {unfit.said}", param=f"spec.{unfit.param}")


def _assign(session: Session, request: TrainingRequest, job: Job) -> JobInputs:
    base = base_source(session, request.base, job.namespace)
    parents = [] if request.parent is None else [version_source(session, request.parent.ref, job.namespace)]
    return JobInputs(base=base, checkpoint=resume_point(session, job, request), targets=parents)


def _complete(services: CompletionServices, request: TrainingRequest, done: HandedIn) -> None:
    """Publish the version that the attempt made, or find the one with the same bytes; what a member of a sweep made is kept as
    its job's last checkpoint. The job succeeds in the transaction that does so.

    Raises Verification if it is not what the job asked for.
    """
    job, publication = done.job, done.completion.version
    if publication is None:
        raise Invalid("a training's completion must have a version", param="version")
    if publication.adapter != job.subject:
        raise Invalid(f"job {job.id} trains {job.subject}, not {publication.adapter}", param="version.adapter")
    settled, reported = settle(request, publication)
    require_learnt(settled)
    if request.sweep is not None:
        _keep(services, request, request.sweep, publication, settled, done)
    else:
        _publish(services, request, settled, reported, done)


def _keep(
    services: CompletionServices,
    request: TrainingRequest,
    place: SweepPlace,
    stated: Publication,
    settled: Publication,
    done: HandedIn,
) -> None:
    """Keep what a member of a sweep made, as its worker stated it: it is settled again when a version is made of it."""
    member = done.completion.member
    if member is None:
        raise Invalid(
            "the completion of a member of a sweep must say what became of it; upgrade the worker", param="member"
        )
    made = JobRef(id=done.job.id, attempt=done.completion.attempt)
    with services.publisher.keeping(publication=settled, who=done.who, job=made, action="work") as (session, warnings):
        job = attempts.hold(session, made.id, made.attempt, done.who)
        report = report_of(stated, done.completion)
        step = report.record.best_step or member.steps
        store_checkpoint(
            session,
            job,
            step=step,
            total=max(member.steps, step),
            manifest=settled.manifest,
            report=report,
            # It has ended, so nobody resumes from them.
            others_end_at=db_now(session),
        )
        services.keep_member(session, place, step, member, settled)
        keep_rows(session, job, request, done.completion.training_rows)
        note_peak(session, job.id, settled.metrics, settled.record)
        result = {"outcome": member.outcome, "steps": member.steps, "metrics": settled.metrics}
        done.succeed(session, result | _told(done.completion, [*report.warnings, *warnings]))


def _publish(
    services: CompletionServices, request: TrainingRequest, settled: Publication, reported: list[str], done: HandedIn
) -> None:
    with services.db.read() as session:
        changed = changed_since(session, done.job.retry_of, request)
    settled = settled.model_copy(update={"training": {**(settled.training or {}), **changed.flat()}})
    warnings = training_warnings(settled.record, settled.metrics, done.completion.advice)
    made = JobRef(id=done.job.id, attempt=done.completion.attempt)
    with services.publisher.publishing(
        publication=settled,
        who=done.who,
        job=made,
        reported=reported,
        action="work",
        notes=warnings,
    ) as (session, published):
        services.keep_series(session, made, published.version, None)
        keep_trained(session, published.version, done.completion.served_probe, created_by=done.who.name)
        keep_rows(session, session.get_one(Job, done.job.id), request, done.completion.training_rows)
        note_peak(session, done.job.id, settled.metrics, settled.record)
        result: dict[str, Any] = {
            "ref": published.version.ref,
            "digest": published.version.digest,
            "existing": published.existing,
            "metrics": settled.metrics,
        }
        if request.like is not None:
            result["same"] = published.version.digest == request.like.digest
            if not result["same"]:
                warnings = [
                    *warnings,
                    f"its files are not those of {request.like.ref}; the job's log names what differs",
                ]
        done.succeed(session, result | _told(done.completion, warnings))


def _told(completion: Completion, warnings: list[str]) -> dict[str, Any]:
    """Return the parts of a result that say how the training went."""
    looks = [look.model_dump(mode="json") for look in completion.looks]
    advice = [one.model_dump(mode="json") for one in completion.advice]
    return {name: part for name, part in (("looks", looks), ("warnings", warnings), (ADVICE, advice)) if part}


def pin_like(session: Session, request: TrainingRequest, who: Principal, namespace: str) -> TrainingRequest:
    """If a request repeats a training, return it with what is recorded about that one: what it ran with, and its day.

    Raises NotFound, and Invalid if it is a different training.
    """
    if request.like is None:
        return request
    version = find_version(session, parse_ref(request.like.ref), who)
    ref = exact_ref(version)
    require_digest(version, request.like.digest, param="like")
    if version.adapter.namespace != namespace:
        # Everybody who may see the job would see the other version's name in it.
        raise Invalid(
            f"{ref} is of the namespace {version.adapter.namespace}; train it again under a name of that namespace",
            param="like",
        )
    made = session.scalars(select(Origin).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(1)).first()
    job = None if made is None or made.job is None else session.get(Job, made.job)
    if made is None or job is None or job.kind != request.kind:
        raise Invalid(f"no training of this registry made {ref}, so none can be repeated; leave like out", param="like")
    record = TrainingRecord.read(table(made.training))
    if record.checkpoint_step is not None:
        raise Invalid(
            f"{ref} was published from a checkpoint, at step {record.checkpoint_step}, and a training goes on to its end; "
            "name a version that its training ended with",
            param="like",
        )
    theirs = training_of(job)
    if theirs.base.fingerprint is None:
        # A worker found it on a hub.
        theirs = theirs.model_copy(
            update={"base": theirs.base.model_copy(update={"fingerprint": version.base.fingerprint})}
        )
    if request.base.fingerprint == theirs.base.fingerprint is not None:
        # Its name is mentioned among the differences.
        theirs = theirs.model_copy(update={"base": request.base})
    if others := other_than(theirs, request):
        raise Invalid(
            f"{ref} was trained with another {', '.join(others)}, so this is not its training; leave these options out, or leave like out",
            param="like",
        )
    libraries = sorted(table(made.libraries).items())
    ran_with: dict[str, Any] = {
        **dict(libraries[:_MOST_LIBRARIES]),
        "base": version.base_id,
        "base_revision": version.base_revision,
        **record.ran_with(),
    }
    like = RecordedTraining(ref=ref, digest=version.digest, ran_with=ran_with)
    return request.model_copy(update={"like": like, "template_date": theirs.template_date})


TRAINING = JobKindRules(
    request=TrainingRequest,
    queue="gpu",
    datasets=_DATASETS,
    pin=_pin,
    examine=_examine,
    keep=keep_checkpoint,
    assign=_assign,
    complete=_complete,
)
