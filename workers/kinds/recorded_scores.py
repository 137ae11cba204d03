"""The registry's scores of the targets to be evaluated: candidates, which the child compares with what it would compute."""

from __future__ import annotations

from pydantic import ValidationError

from sdk.api import evaluations
from sdk.client import Client
from sdk.errors import NotAllowed
from sdk.schemas.evaluation import Conditions
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.scores import EvaluationView
from sdk.schemas.wire import read
from sdk.schemas.work import TargetSource
from workers.pipelines.scoring.order import RecordedScores

#: How many are considered, under any conditions: the newest.
_MOST = 16


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
        views = list(evaluations.iterate(client.transport, dataset=request.data, namespace=namespace, **of))
    except NotAllowed:
        return []
    same = [view for view in views if _is_same(view, request, target)]
    found = (_recorded(view) for view in reversed(same[-_MOST:]))
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
