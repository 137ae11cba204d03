"""The scoring of members, looked at before any of them is trained."""

from __future__ import annotations

from registry.db.database import Database
from registry.errors import Invalid
from registry.jobs.kinds.evaluation_targets import ScoredRows
from registry.jobs.objectives import require_rows_for
from registry.jobs.pins import Chosen, Pinned
from registry.jobs.service import Jobs, PreparedJob
from registry.principal import Principal
from registry.sweeps.requests import scoring_of
from sdk.schemas.job_requests import EvaluationTarget
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.sweeps import SweepSubmission


def require_scorable(db: Database, jobs: Jobs, asked: SweepSubmission, member: PreparedJob, who: Principal) -> None:
    """Examine how members of a sweep will be scored, by one of its trainings, as if it were over its bare base.

    Raises Invalid for rows that can't be scored so, or too many of them, InvalidBase, DoesNotFit, Conflict if no worker has a
    scorer.
    """
    choose, training = asked.request.choose, member.pinned.request
    classifies = training.spec.objective == "classify"
    if choose == "accuracy" and not classifies:
        raise Invalid(
            "only classifications have an accuracy; choose a score of answers such as rouge_l, or the held-out loss, or say"
            " objective classify if the rows have labels",
            param="request.choose",
        )
    target = EvaluationTarget(base=training.base)
    request = scoring_of(asked.request, target, training.eval_data)
    namespace = member.pinned.namespace
    rows = ScoredRows(request.data, request.spec, who, namespace, embedded=False)
    with db.read() as session:
        require_rows_for(session, [], request.data, request.spec, who, namespace)
        rows.require_few(session, 1)
    chosen = [] if classifies else [Chosen(target, None, None, member.pinned.base)]
    pinned = Pinned(request, namespace, "", member.pinned.base, targets=chosen, scorers=request.spec.installed)
    submission = JobSubmission(request=request, priority=asked.priority, needs=asked.needs, timeout_s=asked.timeout_s)
    jobs.examine(submission, pinned, who)
