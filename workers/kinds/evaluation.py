"""Evaluations: every target scored on the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from pydantic import ValidationError

from sdk.client import Client
from sdk.errors import InvalidBase, NotAllowed, NotFound, QuotaExceeded, VerificationFailed
from sdk.formats.cut_texts import cut_text, json_bytes, longest_that_fit
from sdk.schemas.evaluation import WORDNET, BasePrecision, Conditions, EvaluationFailure, EvaluationReport, Sample
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.row_file import row_file_name
from sdk.schemas.scores import EvaluationView
from sdk.schemas.wire import read
from sdk.schemas.work import Assignment, Completion, EvaluationResult, TargetSource
from workers.child.protocol import OUT_FOLDER
from workers.installed_scorers import NoScorerError, require_any
from workers.kinds.attempt import Attempt, KindOfWork
from workers.kinds.causes import AttemptFailed, of_error
from workers.kinds.pins import day_of, of_targets
from workers.node.wordnet import NoWordNetError, wordnet_digest
from workers.pipelines.orders import (
    AsRecorded,
    EvaluationItem,
    EvaluationOrder,
    EvaluationScores,
    RecordedScores,
    WordNet,
)

#: How many are considered, under any conditions: the newest.
_MOST_RECORDED = 16


def recorded_scores(
    client: Client, request: EvaluationRequest, target: TargetSource, *, namespace: str | None
) -> list[RecordedScores]:
    """Return the last scores of a target on the same rows that the namespace has, the newest first; none if they are to
    be computed again.

    Records without rows, or whose conditions can't be read, are left out.
    """
    if request.again or (target.digest is None and target.base.fingerprint is None):
        return []
    of = {"base": target.base.fingerprint} if target.digest is None else {"digest": target.digest}
    try:
        views = client.evaluations(dataset=request.data, scores_of=namespace, **of)
    except NotAllowed:
        return []
    same = [view for view in views if _is_same(view, request, target)]
    found = (_recorded(view) for view in reversed(same[-_MOST_RECORDED:]))
    return [each for each in found if each is not None]


def _is_same(view: EvaluationView, request: EvaluationRequest, target: TargetSource) -> bool:
    return (
        view.ref == target.label
        and view.dataset == request.data
        and view.base_fingerprint == target.base.fingerprint
        and view.rows_digest is not None
    )


def _recorded(view: EvaluationView) -> RecordedScores | None:
    try:
        conditions = read(Conditions, view.conditions)
    except ValidationError:
        return None
    return RecordedScores(
        id=view.id,
        conditions=conditions,
        libraries=view.libraries,
        metrics=sorted(view.metrics),
        samples=len(view.samples),
        texts=view.keep_samples != 0,
    )


#: How many bytes the texts of all samples of a job may take as JSON. The rest of 4 MiB is for names and metrics.
MOST_TEXT_BYTES = 3 * 1024 * 1024


def within(reports: Sequence[EvaluationReport], most_bytes: int = MOST_TEXT_BYTES) -> list[EvaluationReport]:
    """Return the reports with the longest texts of their samples cut, so that all texts take `most_bytes` at most: the
    registry takes no body above 4 MiB, and 64 targets with 100 samples each may be requested.

    Shorter texts stay whole, and each cut text is marked at its end.
    """
    texts = chain.from_iterable(_texts(sample).values() for report in reports for sample in report.samples)
    longest = longest_that_fit([json_bytes(text) for text in texts], most_bytes)
    if longest is None:
        return list(reports)
    return [
        report.model_copy(update={"samples": [_shorten(sample, longest) for sample in report.samples]})
        for report in reports
    ]


def _texts(sample: Sample) -> dict[str, str]:
    return {name: text for name, text in sample if text is not None}


def _shorten(sample: Sample, longest: int) -> Sample:
    return Sample(**{name: cut_text(text, longest) for name, text in _texts(sample).items()})


#: Failures of one target that say nothing about the others.
_OF_THE_TARGET = (InvalidBase, NotFound, VerificationFailed)


def _differences(given: Assignment, request: EvaluationRequest) -> Iterator[str]:
    return of_targets(request.targets, given.targets)


def _evaluate(attempt: Attempt, request: EvaluationRequest) -> None:
    """Carry out an evaluation and hand its scores in. Raises AttemptFailed, Stopped, AdapterctlError."""
    try:
        # Checked before anything is fetched.
        require_any(request.spec.scorers or ())
        wordnet = _wordnet(attempt, request)
    except (NoScorerError, NoWordNetError) as error:
        raise AttemptFailed(FailureReason.SPEC, str(error)) from error
    targets = attempt.assignment.targets
    requested = {number for number, target in enumerate(request.targets) if target.beside is None}
    outcomes: dict[int, EvaluationReport | AsRecorded | EvaluationFailure] = {}
    items, fingerprints = dict[int, EvaluationItem](), list[str]()
    for number, target in enumerate(targets):
        try:
            base = attempt.inputs.base(target.base)
            adapter = None if target.manifest is None else attempt.inputs.adapter(target.manifest)
        except _OF_THE_TARGET as error:
            if target.base.fingerprint is None or requested <= {*outcomes, number}:
                raise
            outcomes[number] = EvaluationFailure(reason=of_error(error).reason.value, message=error.message)
            fingerprints.append(target.base.fingerprint)
            continue
        fingerprints.append(base.registration.fingerprint)
        items[number] = EvaluationItem(
            base=base.folder,
            adapter=adapter,
            quantization=_recipe(target, targets, request.spec.precision),
            template_date=day_of(target.template_date or request.template_date),
            stop_ids=target.stop_ids,
            labels=target.labels,
            kept=attempt.inputs.kept(base),
            recorded=recorded_scores(attempt.client, request, target, namespace=attempt.assignment.namespace),
        )
    items = {number: _rendered_alike(item, items.values()) for number, item in items.items()}
    order = EvaluationOrder(
        items=list(items.values()), data=attempt.inputs.dataset(request.data), spec=request.spec, wordnet=wordnet
    )
    outcomes |= zip(items, attempt.run_child(order, EvaluationScores).outcomes, strict=True)
    failures = {number: outcome for number, outcome in outcomes.items() if isinstance(outcome, EvaluationFailure)}
    if requested <= failures.keys():
        # Some could not be fetched, and the rest could not be scored, so there is no result to hand in.
        failure = failures[min(failures)]
        raise AttemptFailed(FailureReason(failure.reason), failure.message)
    reports = {number: outcome for number, outcome in outcomes.items() if isinstance(outcome, EvaluationReport)}
    reports = dict(zip(reports, within(list(reports.values())), strict=True))
    recorded = {number: outcome.id for number, outcome in outcomes.items() if isinstance(outcome, AsRecorded)}
    upload = _send_rows(attempt, reports)
    results = [
        EvaluationResult(
            label=target.label,
            digest=target.digest,
            base_fingerprint=fingerprints[number],
            report=reports.get(number),
            recorded=recorded.get(number),
            upload=upload if number in reports else None,
            failure=failures.get(number),
        )
        for number, target in enumerate(targets)
    ]
    attempt.complete(Completion(attempt=attempt.assignment.attempt, evaluations=results))


def _wordnet(attempt: Attempt, request: EvaluationRequest) -> WordNet | None:
    """Return this worker's WordNet if a metric needs it. Raises NoWordNetError if there is none."""
    if WORDNET not in request.spec.installed:
        return None
    folder = attempt.inputs.wordnet
    digest = wordnet_digest(folder)
    return None if folder is None else WordNet(folder=folder, digest=digest)


def _rendered_alike(item: EvaluationItem, items: Iterable[EvaluationItem]) -> EvaluationItem:
    """Return an item that, if it is a bare base, reads rows as the first adapter over it does: of other texts, no two
    scores can be compared.
    """
    if item.adapter is not None:
        return item
    over = (other.adapter for other in items if other.base == item.base and other.labels is None)
    return item.model_copy(update={"rendered_as": next(filter(None, over), None)})


def _recipe(
    target: TargetSource, targets: Sequence[TargetSource], precision: BasePrecision
) -> QuantizationRecipe | None:
    """How the base of a target is held; as trained, a bare base as for the first adapter over it, or else as for the
    first adapter.
    """
    if precision != "as-trained":
        return QuantizationRecipe() if precision == "nf4" else None
    if target.digest is not None:
        return target.quantization
    adapters = [each for each in targets if each.digest is not None]
    over = [each for each in adapters if each.base.fingerprint == target.base.fingerprint] or adapters
    return over[0].quantization if over else None


def _send_rows(attempt: Attempt, reports: dict[int, EvaluationReport]) -> str | None:
    """Send the files of all rows; return the upload session's id, None if no file is stored.

    If the namespace has no room for them, the scores are handed in without them.
    """
    files = {report.rows.digest: row_file_name(report.rows.digest) for report in reports.values() if report.rows}
    if not files:
        return None
    attempt.finishing("storing the scores by row")
    sources = {digest: attempt.folder / OUT_FOLDER / name for digest, name in files.items()}
    try:
        return attempt.client.uploader.upload(sources, "storing the scores by row", attempt.assignment.namespace)
    except QuotaExceeded as error:
        attempt.lease.log(f"the scores by row are not stored: {error.message}")
        for number, report in reports.items():
            reports[number] = report.model_copy(update={"rows": None})
        return None


EVALUATION = KindOfWork(request=EvaluationRequest, differences=_differences, carry_out=_evaluate)
