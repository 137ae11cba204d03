"""Running an evaluation from its order."""

from __future__ import annotations

import traceback
from datetime import date
from typing import Any

from sdk.schemas.evaluation import MOST_JOB_ROWS, MOST_TARGET_ROWS, EvaluationReport
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import AsRecorded, EvaluationOrder, EvaluationScores, Host, ItemFailure
from workers.pipelines.scoring.evaluate import evaluate
from workers.pipelines.scoring.labels import evaluate_labels
from workers.pipelines.scoring.recorded import AlreadyRecorded

#: Reasons after which nothing more can be scored here.
_OF_THE_MACHINE = frozenset({FailureReason.DISK_FULL})


def carry_out(order: EvaluationOrder, host: Host) -> EvaluationScores:
    """Score the items, grouped by base; an item that can't be scored loses only its own scores.

    Raises the first error if nothing could be scored.
    """
    outcomes: dict[int, EvaluationReport | AsRecorded | ItemFailure] = {}
    bases = SharedBase()
    for index in sorted(range(len(order.items)), key=lambda index: _first_over(order, index)):
        try:
            outcomes[index] = _score(order, index, bases, host)
        except AlreadyRecorded as found:
            host.report(Progress(phase="evaluate", message=f"its scores are recorded already, as {found.ident}"))
            outcomes[index] = AsRecorded(id=found.ident)
        except PipelineError as error:
            if error.reason in _OF_THE_MACHINE:
                raise
            # The error itself is not kept: it would keep the model alive in which it was raised.
            outcomes[index] = ItemFailure(reason=error.reason, message=error.message)
        except Exception as error:  # noqa: BLE001  # whatever an adapter breaks, the others are scored
            # It goes to the job's log, as for a failed job.
            traceback.print_exc()
            said = (str(error).splitlines() or [""])[0][:300]
            outcomes[index] = ItemFailure(
                reason=FailureReason.INTERNAL, message=f"{type(error).__name__}: {said}; the job's log has the details"
            )
    ordered = [outcomes[index] for index in range(len(order.items))]
    failures = [outcome for outcome in ordered if isinstance(outcome, ItemFailure)]
    if failures and len(failures) == len(ordered):
        raise PipelineError(failures[0].reason, failures[0].message)
    return EvaluationScores(outcomes=ordered)


def _first_over(order: EvaluationOrder, index: int) -> tuple[int, int]:
    """A sort key: the number of the first item with the same base loaded in the same way, and the item's own number."""
    loaded = [(item.base, item.quantization, item.labels if item.adapter else None) for item in order.items]
    return loaded.index(loaded[index]), index


def _score(order: EvaluationOrder, index: int, bases: SharedBase, host: Host) -> EvaluationReport:
    item = order.items[index]
    # Those that were asked for come first: if all together are too many, the others go without scores.
    most_rows = min(MOST_TARGET_ROWS, MOST_JOB_ROWS // (index + 1))
    shared: dict[str, Any] = {
        "base": item.base,
        "quantization": item.quantization,
        "data": order.data,
        "spec": order.spec,
        "on_progress": host.report,
        "rows_to": host.out,
        "recorded": item.recorded,
        "bases": bases,
        "most_rows": most_rows,
    }
    if item.adapter is not None and item.labels is not None:
        return evaluate_labels(adapter=item.adapter, labels=item.labels, **shared)
    day = date.fromisoformat(item.template_date)
    return evaluate(adapter=item.adapter, day=day, stop_ids=item.stop_ids, kept=item.kept, **shared)
