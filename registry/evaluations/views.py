"""Evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from registry.evaluations.comparing.service import ComparisonQuery, Comparisons
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.evaluations.slicing import Slicing
from registry.http.routes import Reader, apart, room, service
from sdk.schemas.artifacts import Transfer
from sdk.schemas.scores import Comparison, EvaluationView, SlicedScores
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


@router.get("/{ident}/slices")
async def slice_evaluation(
    ident: Annotated[str, Path(max_length=64, description="The id of the scores.")],
    slicing: Annotated[Slicing, service(Slicing)],
    who: Reader,
    by: Annotated[
        str,
        Query(min_length=1, max_length=200, description="A column of the dataset.", examples=["repository"]),
    ],
) -> SlicedScores:
    """Sum the scores of the rows up by the value that they have in a column, of at most 50 values."""
    return await apart(slicing.slices, lane="reading long", ident=ident, by=by, who=who)


@router.get("/comparison")
async def compare_evaluations(
    comparisons: Annotated[Comparisons, service(Comparisons)],
    who: Reader,
    asked: Annotated[ComparisonQuery, Query()],
) -> Comparison:
    """Compare targets that were scored alike on the same rows, row by row, each with each."""
    return await apart(comparisons.compare, lane="reading long", asked=asked, who=who)
