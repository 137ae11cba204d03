"""Keeping and reading evaluations."""

from __future__ import annotations

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.resolve import find_version, parse_ref
from registry.db import Database
from registry.errors import Invalid
from registry.evaluations.models import Evaluation
from registry.jobs.claims import Succeed
from sdk.schemas.jobs import (
    Completion,
    EvaluationRequest,
    EvaluationResult,
    EvaluationTarget,
    EvaluationView,
    JobView,
)

#: The grader of this release: token-weighted loss, and ROUGE-L of greedy completions.
GRADER = "loss+rouge_l"


class Evaluations:
    """The service over the table of evaluations; also the effect of an evaluation's completion."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def __call__(self, *, job: JobView, completion: Completion, by: str, succeed: Succeed) -> None:
        """Append one row a target, in the transaction in which the job succeeds."""
        request = EvaluationRequest.model_validate(job.request)
        results = completion.evaluations
        expected = [target.label for target in request.targets]
        if results is None or [result.label for result in results] != expected:
            raise Invalid("the completion of an evaluation holds one result for each target", param="evaluations")
        with self._db.write() as session:
            for target, result in zip(request.targets, results, strict=True):
                _require_same(session, target, result)
            rows = [
                Evaluation(
                    id=secrets.token_hex(6),
                    label=result.label,
                    digest=result.digest,
                    base_fingerprint=result.base_fingerprint,
                    dataset_digest=request.data,
                    grader=GRADER,
                    precision=result.report.precision,
                    spec=request.spec.model_dump(),
                    metrics=result.report.metrics,
                    samples=[sample.model_dump() for sample in result.report.samples],
                    libraries=result.report.libraries,
                    job_id=job.id,
                    attempt=completion.attempt,
                )
                for result in results
            ]
            session.add_all(rows)
            session.flush()
            succeed(session, {"evaluations": [row.id for row in rows]})

    def list(self, *, digest: str | None, job: str | None, base: str | None, limit: int) -> list[EvaluationView]:
        """Evaluations of a version, of a job, or of a bare base, in the order of their making."""
        with self._db.read() as session:
            query = select(Evaluation).order_by(Evaluation.created_at, Evaluation.id).limit(limit)
            if digest is not None:
                query = query.where(Evaluation.digest == digest)
            if job is not None:
                query = query.where(Evaluation.job_id == job)
            if base is not None:
                query = query.where(Evaluation.base_fingerprint == base, Evaluation.digest.is_(None))
            return [_view(row) for row in session.scalars(query)]


def _require_same(session: Session, target: EvaluationTarget, result: EvaluationResult) -> None:
    """Raise Invalid where a result is of other bytes or another base than its target."""
    digest, fingerprint = None, None if target.base is None else target.base.fingerprint
    if target.ref is not None:
        version = find_version(session, parse_ref(target.ref))
        digest, fingerprint = version.digest, version.base.fingerprint
    if result.digest != digest:
        raise Invalid(f"the result of {target.label} is of another version; evaluate the assigned one", param="digest")
    if fingerprint is not None and result.base_fingerprint != fingerprint:
        raise Invalid(
            f"the result of {target.label} is over another base; evaluate over the assigned one",
            param="base_fingerprint",
        )


def _view(row: Evaluation) -> EvaluationView:
    return EvaluationView(
        id=row.id,
        ref=row.label,
        digest=row.digest,
        base_fingerprint=row.base_fingerprint,
        dataset=row.dataset_digest,
        grader=row.grader,
        precision=row.precision,
        metrics=row.metrics,
        samples=row.samples,
        job=row.job_id,
        created_at=row.created_at,
    )
