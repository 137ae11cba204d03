"""Evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.http.routes import Reader, room, service
from sdk.schemas.artifacts import Transfer
from sdk.schemas.scores import EvaluationView
from sdk.schemas.wire import Page

router = room("/evaluations", "evaluations")

EvaluationsDep = Annotated[Evaluations, service(Evaluations)]


EvaluationRowsDep = Annotated[EvaluationRows, service(EvaluationRows)]


@router.get("")
def list_evaluations(
    evaluations: EvaluationsDep, who: Reader, asked: Annotated[EvaluationQuery, Query()]
) -> Page[EvaluationView]:
    """Evaluations of a version's digest, of a job, or of a bare base's fingerprint; or the one of an id.

    A digest that versions of several namespaces have is refused without a `namespace`.
    """
    return evaluations.list(asked, who=who)


@router.get("/{ident}/rows")
def locate_evaluation_rows(
    ident: Annotated[str, Path(max_length=64, description="The id of the scores.")],
    rows: EvaluationRowsDep,
    who: Reader,
) -> Transfer:
    """Return where to fetch the scores of each row from: one JSON object a line, compressed by gzip."""
    return rows.locate(ident, who=who)
