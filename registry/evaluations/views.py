"""Evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import Evaluations
from registry.http.routes import Cursor, Limit, Reader, room, service
from sdk.schemas.artifacts import Transfer
from sdk.schemas.jobs import EvaluationView
from sdk.schemas.pages import Page

router = room("/evaluations", "evaluations")

EvaluationsDep = Annotated[Evaluations, service(Evaluations)]


EvaluationRowsDep = Annotated[EvaluationRows, service(EvaluationRows)]


@router.get("")
def list_evaluations(
    evaluations: EvaluationsDep,
    who: Reader,
    digest: Annotated[str | None, Query(max_length=64)] = None,
    job: Annotated[str | None, Query(max_length=64)] = None,
    base: Annotated[str | None, Query(max_length=64)] = None,
    ident: Annotated[str | None, Query(alias="id", max_length=64, description="Only the scores of this id.")] = None,
    cursor: Cursor = None,
    limit: Limit = 200,
) -> Page[EvaluationView]:
    """Evaluations of a version's digest, of a job, or of a bare base's fingerprint; or the one of an id."""
    return evaluations.list(digest=digest, job=job, base=base, ident=ident, cursor=cursor, limit=limit, who=who)


@router.get("/{ident}/rows")
def locate_evaluation_rows(
    ident: Annotated[str, Path(max_length=64, description="The id of the scores.")],
    rows: EvaluationRowsDep,
    who: Reader,
) -> Transfer:
    """Return where to fetch the scores of each row from: one JSON object a line, compressed by gzip."""
    return rows.locate(ident, who=who)
