"""Stores and reads evaluations."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.attributes import set_committed_value

from registry.access.audit.service import record
from registry.artifacts.uploads import finish_upload
from registry.db.database import Database
from registry.db.paging import Cursor, Limit, Paged, page_of
from registry.db.stored_json import fields_of, readable, table
from registry.evaluations.last_scores import counted_names, hold_scores, note_latest
from registry.evaluations.models import Evaluation, EvaluationMetric
from registry.evaluations.rows import give_up_earlier, take_in
from registry.evaluations.standing import made_in, of_any_base, of_bytes, space_of_bases
from registry.jobs.models import Job
from registry.principal import Principal
from registry.usage.charging import charge, record_bytes
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.scores import Contamination, EvaluationView
from sdk.schemas.wire import Wire, digest_of
from sdk.schemas.work import EvaluationResult

#: This release's grader: token-weighted loss, and ROUGE-L of greedy completions.
GRADER, LABEL_GRADER = "loss+rouge_l", "loss+accuracy+macro_f1"


class EvaluationQuery(BaseModel):
    """Which evaluations are asked for, and which page of them."""

    digest: Annotated[str | None, Field(max_length=64)] = None
    job: Annotated[str | None, Field(max_length=64)] = None
    base: Annotated[str | None, Field(max_length=64)] = None
    id: Annotated[str | None, Field(max_length=64, description="Only the scores of this id.")] = None
    dataset: Annotated[str | None, Field(max_length=64, description="Only scores on the dataset of this digest.")] = (
        None
    )
    namespace: Annotated[
        str | None,
        Field(
            max_length=64,
            description="Only scores that jobs of this namespace made; `*`: of all that you may read. Without it, the scores of a version are those that its own namespace made, and the scores of a bare base are those of the namespace in which you would evaluate it.",
        ),
    ] = None
    cursor: Cursor = None
    limit: Limit = 200


class Evaluations:
    """The service over the table of evaluations."""

    def __init__(
        self, db: Database, *, on_kept: Callable[[Session, Sequence[Evaluation]], None] = lambda session, rows: None
    ) -> None:
        """`on_kept` hears of the records of each job, in the transaction that keeps them."""
        self._db = db
        self._on_kept = on_kept

    def keep(
        self,
        session: Session,
        job: Job,
        attempt: int,
        request: EvaluationRequest,
        results: Sequence[EvaluationResult],
        contamination: Mapping[str, Contamination],
        intervals: Mapping[str, Mapping[str, tuple[float, float]]],
        who: Principal,
    ) -> Sequence[str | None]:
        """Append a record for each scored target of a job, in the transaction in which the job succeeds.

        Return the id of each result, or None if it has no scores, or names a record that is not its target's. The files
        with their rows have been verified; `intervals` follow from these, by label and metric. Raises Verification if one was removed since; the commit may raise
        QuotaExceeded.
        """
        hold_scores(session, {(job.namespace, result.digest) for result in results if result.digest is not None})
        kept = [
            _recorded(session, job, request, result) or _row(job, attempt, request, result, who) for result in results
        ]
        rows = [row for row in kept if row is not None and row.job_id == job.id]
        for row in rows:
            if (found := contamination.get(row.label)) is not None:
                row.contamination = found.model_dump(mode="json")
        for result in results:
            if result.report is not None and result.report.rows is not None:
                take_in(session, job.namespace, result.report.rows)
                finish_upload(session, result.upload)
        charge(session, job.namespace, records=sum(row.record_bytes for row in rows))
        session.add_all(rows)
        session.flush()
        session.add_all(metric for row in rows for metric in _metrics(row))
        note_latest(session, rows, intervals)
        for row in rows:
            give_up_earlier(session, row)
            record(session, who, "evaluation.record", job.namespace, row.label, after={"id": row.id, "job": job.id})
        self._on_kept(session, rows)
        return [None if row is None else row.id for row in kept]

    def list(self, asked: EvaluationQuery, *, who: Principal) -> Paged[EvaluationView]:
        """The evaluations of a version, a job or a bare base, or the one with an id, that the caller may see, oldest
        first.

        Those of a version or a base are the ones that count for it, see `standing`, or those that jobs of `namespace`
        made ("*": of any). Raises NotFound for a namespace that the caller may not read, Invalid for the digest of
        versions in several namespaces.
        """
        query = select(Evaluation).where(who.within(Evaluation.namespace))
        exact = {"job_id": asked.job, "dataset_digest": asked.dataset, "id": asked.id}
        query = query.filter_by(**{name: value for name, value in exact.items() if value is not None})
        namespace, base, digest = asked.namespace, asked.base, asked.digest
        if namespace is not None:
            query = query.where(made_in(Evaluation, namespace, who, scores_of=namespace))
        if base is not None:
            query = query.where(of_any_base(base))
        # Whether it is said which scores, and not only of what.
        chosen = not (namespace is asked.job is asked.id is None)
        if base is not None and not chosen:
            query = query.where(made_in(Evaluation, space_of_bases((), who), who))
        with self._db.read() as session:
            if digest is not None:
                query = query.where(Evaluation.digest == digest if chosen else of_bytes(session, who, digest))
            return page_of(
                session,
                query,
                Evaluation.created_at,
                Evaluation.id,
                cursor=asked.cursor,
                limit=asked.limit,
                oldest_first=True,
                views=lambda rows: [view for row in rows if (view := _present(row)) is not None],
                weight=Evaluation.record_bytes,
            )

    def all_of(self, counting: ColumnElement[bool], *, newest: int | None = None) -> Sequence[EvaluationView]:
        """All evaluations for which a condition of `standing` is true, or only so many of the newest, oldest first."""
        order = (Evaluation.created_at.desc(), Evaluation.id.desc())
        query = select(Evaluation).where(counting).order_by(*order).limit(newest)
        with self._db.read() as session:
            rows = session.scalars(query).all()
            return [view for row in reversed(rows) if (view := _present(row)) is not None]

    def newest_of(
        self, counting: ColumnElement[bool], *, most: int, most_bytes: int
    ) -> tuple[Sequence[EvaluationView], bool]:
        """The evaluations for which a condition of `standing` is true, without their samples, newest first: of each target,
        dataset and set of conditions the last one. At most `most`, of records of `most_bytes` in all; and whether these are
        all.
        """
        target = (Evaluation.namespace, Evaluation.digest, Evaluation.base_fingerprint, Evaluation.dataset_digest)
        alike = (*target, Evaluation.grader, Evaluation.precision, Evaluation.spec_digest)
        order = (Evaluation.created_at.desc(), Evaluation.id.desc())
        place = func.row_number().over(partition_by=alike, order_by=order)
        columns = (Evaluation.id, Evaluation.created_at, Evaluation.record_bytes)
        numbered = select(*columns, place.label("place")).where(counting).subquery()
        sized = select(numbered.c.id, numbered.c.record_bytes).where(numbered.c.place == 1)
        sized = sized.order_by(numbered.c.created_at.desc(), numbered.c.id.desc()).limit(most + 1)
        with self._db.read() as session:
            there = session.execute(sized).all()
            sizes = itertools.accumulate(row.record_bytes for row in there)
            chosen = [row.id for row, size_bytes in zip(there, sizes, strict=True) if size_bytes <= most_bytes][:most]
            query = (
                select(Evaluation).where(Evaluation.id.in_(chosen)).options(defer(Evaluation.samples)).order_by(*order)
            )
            rows = session.scalars(query).all()
            for row in rows:
                # Otherwise they would be loaded row by row.
                set_committed_value(row, "samples", [])
            views = [view for row in rows if (view := _present(row)) is not None]
        return views, len(chosen) == len(there)


def _row(
    job: Job, attempt: int, request: EvaluationRequest, result: EvaluationResult, who: Principal
) -> Evaluation | None:
    """The record of a target's scores; None if it has none."""
    report = result.report
    if report is None:
        return None
    conditions = report.conditions.model_dump(mode="json")
    spec = {**request.spec.model_dump(), "conditions": conditions}
    samples = [sample.model_dump() for sample in report.samples]
    # Each metric also has a row for search, and some have one for lists.
    size_bytes = record_bytes(spec, samples, report.libraries, report.scorer_errors or None)
    size_bytes += sum(record_bytes(name) for name in (*report.metrics, *counted_names(report.metrics, spec)))
    return Evaluation(
        id=secrets.token_hex(6),
        namespace=job.namespace,
        label=result.label,
        digest=result.digest,
        base_fingerprint=result.base_fingerprint,
        dataset_digest=request.data,
        grader=LABEL_GRADER if "macro_f1" in report.metrics else GRADER,
        precision=report.precision,
        spec=spec,
        metrics=report.metrics,
        samples=samples,
        libraries=report.libraries,
        spec_digest=digest_of(conditions),
        rows_digest=None if report.rows is None else report.rows.digest,
        rows_size_bytes=None if report.rows is None else report.rows.size_bytes,
        scorer_errors=report.scorer_errors or None,
        job_id=job.id,
        attempt=attempt,
        scored_by=who.owner,
        scored_by_name=who.name,
        record_bytes=size_bytes,
    )


def _recorded(session: Session, job: Job, request: EvaluationRequest, result: EvaluationResult) -> Evaluation | None:
    """The earlier record that a result names; None if it names none, or one of something else."""
    if result.recorded is None or request.again:
        return None
    of = {
        "id": result.recorded,
        "namespace": job.namespace,
        "label": result.label,
        "digest": result.digest,
        "base_fingerprint": result.base_fingerprint,
        "dataset_digest": request.data,
    }
    return session.scalars(select(Evaluation).filter_by(**of)).first()


def _metrics(row: Evaluation) -> list[EvaluationMetric]:
    """The metrics of a version's evaluation as rows, for search; search does not find bare bases."""
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


class _Found(Wire):
    """What may be missing if a row can't be read completely."""

    metrics: dict[str, float] = Field(default_factory=dict)
    samples: list[dict[str, str]] = Field(default_factory=list)


def _present(row: Evaluation) -> EvaluationView | None:
    found = readable(_Found, {"metrics": row.metrics, "samples": row.samples}) or _Found()
    removed = row.rows_removed_at is not None
    shown = fields_of(
        EvaluationView,
        row,
        ref=row.label,
        dataset=row.dataset_digest,
        conditions=table(table(row.spec).get("conditions")),
        metrics=found.metrics,
        samples=found.samples,
        keep_samples=kept if isinstance(kept := table(row.spec).get("keep_samples"), int) else None,
        libraries=_texts(row.libraries),
        rows_digest=None if removed else row.rows_digest,
        rows_size_bytes=None if removed else row.rows_size_bytes,
        contamination=readable(Contamination, row.contamination) if row.contamination else None,
        scorer_errors=_texts(row.scorer_errors),
        job=row.job_id,
    )
    return readable(EvaluationView, shown)


def _texts(value: Any) -> dict[str, str]:
    return {name: said for name, said in table(value).items() if isinstance(said, str)}
