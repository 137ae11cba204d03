"""Evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from registry.http import ERRORS, Given, Reader
from sdk.schemas.jobs import EvaluationView

router = APIRouter(prefix="/api/v1/evaluations", tags=["evaluations"], responses=ERRORS)


@router.get("")
def list_evaluations(
    services: Given,
    who: Reader,
    digest: Annotated[str | None, Query(max_length=64)] = None,
    job: Annotated[str | None, Query(max_length=64)] = None,
    base: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[EvaluationView]:
    """Evaluations of a version's digest, of a job, or of a bare base's fingerprint."""
    return services.evaluations.list(digest=digest, job=job, base=base, limit=limit)
