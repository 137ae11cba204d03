"""Keeping and reading evaluations."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.versions.finding import find_version, parse_ref
from registry.db.database import Database
from registry.db.paging import Paged, page_of
from registry.db.stored_json import read_stored, readable
from registry.errors import Invalid
from registry.evaluations.models import Evaluation, EvaluationMetric
from registry.jobs.claims import Succeed
from registry.jobs.kinds.outcomes import require_scored
from registry.jobs.models import Job
from registry.principal import SYSTEM, Principal
from sdk.schemas.jobs import EvaluationRequest, EvaluationView, JobView
from sdk.schemas.training import QuantizationRecipe
from sdk.schemas.wire import Wire
from sdk.schemas.work import Completion, EvaluationResult

#: The grader of this release: token-weighted loss, and ROUGE-L of greedy completions.
GRADER = "loss+rouge_l"


class Evaluations:
    """The service over the table of evaluations; also the effect of an evaluation's completion."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def __call__(self, *, job: JobView, completion: Completion, who: Principal, succeed: Succeed) -> None:
        """Append one row a target, in the transaction in which the job succeeds."""
        request = read_stored(EvaluationRequest, job.request, of=f"the request of job {job.id}")
        results = completion.evaluations
        expected = [target.label for target in request.targets]
        if results is None or [result.label for result in results] != expected:
            raise Invalid("the completion of an evaluation holds one result for each target", param="evaluations")
        with self._db.write() as session:
            namespace = session.get_one(Job, job.id).namespace
            _require_asked(session, request, results)
            rows = [
                Evaluation(
                    id=secrets.token_hex(6),
                    namespace=namespace,
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
            session.add_all(metric for row in rows for metric in _metrics(row))
            for row in rows:
                record(session, who, "evaluation.record", namespace, row.label, after={"id": row.id, "job": job.id})
            succeed(session, {"evaluations": [row.id for row in rows]})

    def list(
        self,
        *,
        digest: str | None,
        job: str | None,
        base: str | None,
        cursor: str | None,
        limit: int,
        who: Principal,
    ) -> Paged[EvaluationView]:
        """Evaluations of a version, of a job, or of a bare base, that the caller may see, in the order of their making."""
        query = select(Evaluation).where(who.within(Evaluation.namespace))
        if digest is not None:
            query = query.where(Evaluation.digest == digest)
        if job is not None:
            query = query.where(Evaluation.job_id == job)
        if base is not None:
            query = query.where(Evaluation.base_fingerprint == base, Evaluation.digest.is_(None))
        with self._db.read() as session:
            return page_of(
                session,
                query,
                Evaluation.created_at,
                Evaluation.id,
                cursor=cursor,
                limit=limit,
                views=lambda rows: [view for row in rows if (view := _view(row)) is not None],
            )


def _metrics(row: Evaluation) -> list[EvaluationMetric]:
    """The metrics of a version's evaluation as rows, for search; a bare base is not searched for."""
    if row.digest is None:
        return []
    return [
        EvaluationMetric(
            evaluation_id=row.id,
            name=name[:100],
            value=value,
            dataset_digest=row.dataset_digest,
            digest=row.digest,
            namespace=row.namespace,
        )
        for name, value in row.metrics.items()
    ]


def _require_asked(session: Session, request: EvaluationRequest, results: Sequence[EvaluationResult]) -> None:
    """Raise Invalid or Verification where a result is of other bytes, another base or another precision than asked for."""
    versions = [
        None if target.ref is None else find_version(session, parse_ref(target.ref), SYSTEM)
        for target in request.targets
    ]
    first = next((version.quantization for version in versions if version is not None), None)
    for target, version, result in zip(request.targets, versions, results, strict=True):
        digest, fingerprint = None, None if target.base is None else target.base.fingerprint
        if version is not None:
            digest, fingerprint = version.digest, version.base.fingerprint
        if result.digest != digest:
            raise Invalid(
                f"the result of {target.label} is of another version; evaluate the assigned one", param="digest"
            )
        if fingerprint is not None and result.base_fingerprint != fingerprint:
            raise Invalid(
                f"the result of {target.label} is over another base; evaluate over the assigned one",
                param="base_fingerprint",
            )
        recipe = first if version is None else version.quantization
        trained = None if recipe is None else read_stored(QuantizationRecipe, recipe, of=target.label)
        require_scored(target.label, request.spec, trained, result.report)


class _Found(Wire):
    """What may be missing where a row can't be read whole."""

    metrics: dict[str, float] = Field(default_factory=dict)
    samples: list[dict[str, str]] = Field(default_factory=list)


def _view(row: Evaluation) -> EvaluationView | None:
    found = readable(_Found, {"metrics": row.metrics, "samples": row.samples}) or _Found()
    return readable(
        EvaluationView,
        {
            "id": row.id,
            "ref": row.label,
            "digest": row.digest,
            "base_fingerprint": row.base_fingerprint,
            "dataset": row.dataset_digest,
            "grader": row.grader,
            "precision": row.precision,
            "metrics": found.metrics,
            "samples": found.samples,
            "job": row.job_id,
            "created_at": row.created_at,
        },
    )
