"""Evaluations: every target scored on the same rows."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.schemas.evaluation import EvaluationFailure, EvaluationReport
from sdk.schemas.jobs import EvaluationRequest
from sdk.schemas.training import QuantizationRecipe
from sdk.schemas.work import Assignment, Completion, EvaluationResult
from workers.kinds.attempt import Attempt
from workers.kinds.pins import of_targets, today
from workers.kinds.rules import KindOfWork
from workers.kinds.samples import within
from workers.pipelines.scoring.order import EvaluationItem, EvaluationOrder, EvaluationScores, ItemFailure

_NF4 = QuantizationRecipe()


def _differences(given: Assignment, request: EvaluationRequest) -> Iterator[str]:
    return of_targets(request.targets, given.targets)


def _evaluate(attempt: Attempt, request: EvaluationRequest) -> None:
    """Carry out an evaluation and hand its scores in. Raises AttemptFailed, Stopped, AdapterctlError."""
    targets = attempt.assignment.targets
    scanned = [attempt.inputs.base(target.base) for target in targets]
    as_trained = next((target.quantization for target in targets if target.digest is not None), None)
    items = []
    for target, base in zip(targets, scanned, strict=True):
        recipe = {
            "native": None,
            "nf4": _NF4,
            "as-trained": target.quantization if target.digest is not None else as_trained,
        }[request.spec.precision]
        adapter = None if target.manifest is None else str(attempt.inputs.adapter(target.manifest))
        items.append(
            EvaluationItem(
                base=str(base.folder),
                adapter=adapter,
                quantization=recipe,
                template_date=target.template_date or request.template_date or today(),
                stop_ids=target.stop_ids,
                labels=target.labels,
            )
        )
    order = EvaluationOrder(items=items, data=str(attempt.inputs.dataset(request.data)), spec=request.spec)
    outcomes = attempt.run_child(order, EvaluationScores).outcomes
    reports = iter(within([outcome for outcome in outcomes if isinstance(outcome, EvaluationReport)]))
    results = [
        EvaluationResult(
            label=target.label,
            digest=target.digest,
            base_fingerprint=base.registration.fingerprint,
            report=next(reports) if isinstance(outcome, EvaluationReport) else None,
            failure=EvaluationFailure(reason=outcome.reason, message=outcome.message)
            if isinstance(outcome, ItemFailure)
            else None,
        )
        for target, base, outcome in zip(targets, scanned, outcomes, strict=True)
    ]
    attempt.complete(Completion(attempt=attempt.assignment.attempt, evaluations=results))


EVALUATION = KindOfWork(request=EvaluationRequest, differences=_differences, carry_out=_evaluate)
