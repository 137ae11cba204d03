"""Evaluations: versions and bare bases are scored on the same rows, and the scores are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from functools import partial

from sqlalchemy.orm import Session

from registry.catalog.bases.finding import find_base
from registry.catalog.versions.finding import parse_ref_or_member
from registry.datasets.finding import is_given
from registry.db.database import Database
from registry.db.stored_json import table
from registry.errors import Invalid, NotFound
from registry.jobs.base_contents import BaseContents, contents_of, require_fitting
from registry.jobs.forecasts import Estimate, of_evaluation
from registry.jobs.kinds.evaluation_rows import require_bounded, verify_rows
from registry.jobs.kinds.evaluation_targets import ScoredRows, scored_beside, subjects_of
from registry.jobs.kinds.rules import CompletionServices, Examined, HandedIn, JobKindRules, Mismatch, require_none
from registry.jobs.members import keep_members
from registry.jobs.models import Job
from registry.jobs.objectives import is_classifier
from registry.jobs.pins import Chosen, Pinned, pin_data, require_causal, today
from registry.jobs.sources import JobInputs, bare_base_source, subject_source
from registry.jobs.subjects import Subject, find_scored
from registry.principal import SYSTEM, Principal
from sdk.formats.refs import MemberRef
from sdk.lora.stored_quantization import StoredQuantizationError, require_precision, stored_recipe
from sdk.schemas.evaluation import EvaluationFailure, EvaluationReport, EvaluationSpec, is_scorer
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import MOST_TARGETS, EvaluationRequest, EvaluationTarget
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.work import EvaluationResult, TargetSource

_DATASETS = ("data",)
#: The precisions of a base that is not quantised.
_WIDE = ("bfloat16", "float16", "float32")


def _pin(session: Session, request: EvaluationRequest, who: Principal, embedded: bool) -> Pinned[EvaluationRequest]:
    """Raises Invalid for an evaluation over several namespaces."""
    subjects = subjects_of(session, request.targets, who)
    namespaces = {subject.namespace for subject in subjects.values()}
    if len(namespaces) > 1:
        # Everybody who may see one of them would see the others' names in the job.
        raise Invalid(
            "an evaluation's versions must be in one namespace; submit one job for each namespace", param="targets"
        )
    namespace = namespaces.pop() if namespaces else who.home()
    named = pin_data(session, request, _DATASETS, who, namespace)
    rows = ScoredRows(named["data"], request.spec, who, namespace, embedded)
    asked = rows.choose_all(session, request.targets, subjects)
    rows.require(session, asked)
    room = rows.require_few(session, len(asked))
    beside = [] if request.only else scored_beside(session, asked, rows)
    # No texts are kept of another namespace's rows: readers of this one would see them.
    kept = request.spec.keep_samples if is_given(session, named["data"], namespace) else 0
    spec = request.spec.model_copy(update={"keep_samples": kept})
    bases = [one.base for one in asked if one.base is not None]
    return Pinned(
        request.model_copy(
            update={
                "targets": [one.target for one in asked],
                "spec": spec,
                "template_date": request.template_date or today(session),
                **named,
            }
        ),
        namespace,
        " ".join(one.target.label for one in asked)[:300],
        bases[0] if bases else None,
        targets=asked,
        beside=beside,
        most_beside=min(room, MOST_TARGETS - len(asked)),
        scorers=request.spec.installed,
    )


def _examine(db: Database, pinned: Pinned[EvaluationRequest]) -> Examined[EvaluationRequest]:
    """Say how much memory the targets take over the base that takes most, since they are loaded one after another; and
    which are scored beside them.

    Raises Invalid, InvalidBase for a target whose base doesn't go with what is asked for.
    """
    spec, asked = pinned.request.spec, {one.target.label for one in pinned.targets}
    over: dict[str, list[Chosen]] = {}
    for one in (*pinned.targets, *pinned.beside):
        if one.base is not None:
            over.setdefault(one.base.fingerprint, []).append(one)
    most: Estimate | None = None
    needed: dict[str, int] = {}
    for each in over.values():
        assert each[0].base is not None
        # One base at a time: each may have thousands of names.
        base = contents_of(db, each[0].base)
        if named := [one for one in each if one.target.label in asked]:
            estimate = _estimate(base, named, spec)
            most = max(most or estimate, estimate, key=_needed)
        for one in each:
            if one.target.label not in asked:
                with suppress(Invalid):
                    needed[one.target.label] = _needed(_estimate(base, [one], spec))
    most = most or of_evaluation(None, spec, quantized=False, packed=False)
    beside = [one for one in pinned.beside if one.target.label in needed]
    # Only what was asked for counts for a job's needs: production over a larger base is no reason for a larger worker.
    beside = [one for one in beside if one.subject is None or needed[one.target.label] <= _needed(most)]
    targets = [*pinned.request.targets, *(one.target for one in beside[: pinned.most_beside])]
    return Examined(pinned.request.model_copy(update={"targets": targets}), most)


def _estimate(base: BaseContents, targets: Sequence[Chosen], spec: EvaluationSpec) -> Estimate:
    """How much memory targets over one base take. Raises Invalid, InvalidBase."""
    if any(one.subject is None or not is_classifier(one.subject) for one in targets):
        require_causal(base)
    packed = require_fitting(base, partial(require_precision, precision=spec.precision))
    subjects = [one.subject for one in targets if one.subject is not None]
    return of_evaluation(base, spec, quantized=_quantizes(spec, subjects), packed=packed)


def _needed(estimate: Estimate) -> int:
    return estimate.needs.memory_bytes or 0


def _quantizes(spec: EvaluationSpec, subjects: Sequence[Subject]) -> bool:
    """Whether every target is scored over a base in 4 bits; bare bases are scored like the versions with them. 8 bits
    count as 16.
    """
    if spec.precision != "as-trained":
        return spec.precision == "nf4"
    recipes = [subject.quantization for subject in subjects]
    return bool(recipes) and all(recipe is not None and recipe.get("type") != "int8" for recipe in recipes)


def _keep_members(session: Session, request: EvaluationRequest) -> None:
    refs = (parse_ref_or_member(target.ref) for target in request.targets if target.ref is not None)
    keep_members(session, [ref for ref in refs if isinstance(ref, MemberRef)], SYSTEM)


def _assign(session: Session, request: EvaluationRequest, job: Job) -> JobInputs:
    return JobInputs(targets=[_source(session, target, job.namespace) for target in request.targets])


def _source(session: Session, target: EvaluationTarget, namespace: str) -> TargetSource:
    if target.ref is not None:
        return subject_source(session, find_scored(session, target.ref, SYSTEM), namespace)
    assert target.base is not None
    return bare_base_source(session, target.base, namespace)


def _keep(services: CompletionServices, request: EvaluationRequest, done: HandedIn) -> None:
    """Append a record for each target with scores, in the transaction in which the job succeeds; the others are
    named.
    """
    results = done.completion.evaluations
    expected = [target.label for target in request.targets]
    if results is None or [result.label for result in results] != expected:
        raise Invalid("an evaluation's completion must have one result for each target", param="evaluations")
    if all(result.failure is not None for result in results):
        raise Invalid("an evaluation without any scores has failed; hand in its failure", param="evaluations")
    require_bounded(results, request.spec)
    verified = verify_rows(services.artifacts, results, request.spec, done.who)
    intervals = {label: totals.intervals for label, totals in verified.items()}
    scored = {result.label: result.digest for result in results if result.report is not None}
    contamination = services.look_for_training_rows(request, done.job.id, scored)
    with services.db.write() as session:
        job = session.get_one(Job, done.job.id)
        _require_asked(session, request, results, job.namespace)
        attempt = done.completion.attempt
        ids = services.keep_scores(session, job, attempt, request, results, contamination, intervals, done.who)
        kept = [ident for ident in ids if ident is not None]
        if not kept:
            # Handing them in again will evaluate them; if other targets have scores, only these fail.
            unfit = next(result.label for result in results if result.failure is None)
            raise Invalid(f"{_unfit(unfit).message}; evaluate it", param="recorded")
        failures = [_failure(result, ident) for result, ident in zip(results, ids, strict=True)]
        failed = [
            {"ref": result.label, **failure.model_dump()}
            for result, failure in zip(results, failures, strict=True)
            if failure is not None
        ]
        recorded = [ident for ident in kept if any(result.recorded == ident for result in results)]
        told = {"failed": failed, "recorded": recorded}
        done.succeed(session, {"evaluations": kept, **{name: said for name, said in told.items() if said}})


def _failure(result: EvaluationResult, ident: str | None) -> EvaluationFailure | None:
    """Why a result has no scores; None if it has some, with the id `ident`."""
    if result.failure is not None:
        return result.failure
    return _unfit(result.label) if ident is None else None


def _unfit(label: str) -> EvaluationFailure:
    return EvaluationFailure(
        reason=FailureReason.INTERNAL.value,
        message=f"the worker named scores that are not those of {label} on these rows, or are to be made again",
    )


def _require_asked(
    session: Session, request: EvaluationRequest, results: Sequence[EvaluationResult], namespace: str
) -> None:
    """Raise Invalid or Verification if a result is for other bytes, another base or another precision than asked
    for.
    """
    subjects = [None if target.ref is None else find_scored(session, target.ref, SYSTEM) for target in request.targets]
    adapters = [subject for subject in subjects if subject is not None]
    for target, subject, result in zip(request.targets, subjects, results, strict=True):
        digest, fingerprint = None, None if target.base is None else target.base.fingerprint
        if subject is not None:
            digest, fingerprint = subject.digest, subject.fingerprint
        if result.digest != digest:
            raise Invalid(
                f"the result of {target.label} is for another version; evaluate the assigned one", param="digest"
            )
        if fingerprint is not None and result.base_fingerprint != fingerprint:
            raise Invalid(
                f"the result of {target.label} is over another base; evaluate over the assigned one",
                param="base_fingerprint",
            )
        if result.report is None:
            continue
        over = [each for each in adapters if each.fingerprint == result.base_fingerprint] or adapters
        like = subject or next(iter(over), None)
        trained = None if like is None else like.recipe
        trained = _packing(session, result.base_fingerprint, namespace) or trained
        require_none(_differences(target.label, request.spec, trained, result.report))


def _packing(session: Session, fingerprint: str, namespace: str) -> QuantizationRecipe | None:
    """Return how a base that is stored in 4 bits is packed, if its namespace still has it."""
    try:
        return stored_recipe(table(find_base(session, fingerprint, namespace).config))
    except (NotFound, StoredQuantizationError):
        return None


def _differences(
    label: str, spec: EvaluationSpec, recipe: QuantizationRecipe | None, report: EvaluationReport
) -> Iterator[Mismatch]:
    """In what way a target's scores were not made as asked for.

    `recipe` is how an adapter's base was quantised in training; for a bare base, that of the job's first adapter over
    it.
    """
    quantized = {"native": None, "nf4": "nf4", "as-trained": None if recipe is None else recipe.type}[spec.precision]
    wanted = _WIDE if quantized is None else (quantized,)
    if report.precision not in wanted:
        yield Mismatch(f"precision of {label}", " or ".join(wanted), report.precision)
    found, samples = report.conditions, len(report.samples)
    asked = spec.asked_of_texts if found.generated_rows else []
    lacking = [name for name in asked if not _is_there(name, report.metrics.keys() | found.failed.keys())]
    new_tokens, regex = found.max_new_tokens, found.metrics.get("regex")
    thought, most_of_thought = found.max_thought_tokens, spec.max_thought_tokens
    checked = (
        ("loss_on", spec.loss_on, found.loss_on, spec.loss_on not in (None, found.loss_on)),
        ("columns", spec.columns, found.columns, found.columns != spec.columns),
        ("max_length", spec.max_length, found.max_length, found.max_length > spec.max_length),
        ("generate_rows", spec.generate_rows, found.generated_rows, found.generated_rows > spec.generate_rows),
        ("max_new_tokens", spec.max_new_tokens, new_tokens, found.generated_rows and new_tokens != spec.max_new_tokens),
        ("max_thought_tokens", most_of_thought, thought, found.generated_rows and thought != most_of_thought),
        ("metrics", ",".join(asked), "none of " + ",".join(lacking), lacking),
        ("regex", spec.regex, regex, found.generated_rows and regex != spec.regex),
        ("keep_samples", spec.keep_samples, samples, samples > spec.keep_samples),
    )
    for name, wanted_of_it, handed_in, differs in checked:
        if differs:
            yield Mismatch(f"{name} of {label}", wanted_of_it, handed_in)


def _is_there(asked: str, names: Set[str]) -> bool:
    """Whether there is a score of this name; a scorer may have several, whose names begin with its own."""
    return any(name == asked or (is_scorer(asked) and name.startswith(f"{asked}.")) for name in names)


EVALUATION = JobKindRules(
    request=EvaluationRequest,
    queue="gpu",
    datasets=_DATASETS,
    pin=_pin,
    examine=_examine,
    keep=_keep_members,
    assign=_assign,
    complete=_keep,
)
