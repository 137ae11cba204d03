"""Evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.evaluations.service import Evaluations
from registry.http.routes import Cursor, Limit, Reader, room, service
from sdk.schemas.jobs import EvaluationView
from sdk.schemas.pages import Page

router = room("/evaluations", "evaluations")

EvaluationsDep = Annotated[Evaluations, service(Evaluations)]


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
