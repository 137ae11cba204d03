"""What is computed from the scores of rows: comparisons, and sums by the values of a column."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from registry.evaluations.comparing.service import ComparisonQuery, Comparisons
from registry.evaluations.slicing import Slicing
from registry.http.routes import Reader, apart, room, service
from sdk.schemas.scores import Comparison, SlicedScores

router = room("/evaluations", "evaluations")


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
