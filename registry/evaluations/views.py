"""Evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from registry.catalog.views import WhoseBase
from registry.evaluations.comparing.service import Comparisons
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.evaluations.slicing import Slicing
from registry.http.routes import Reader, apart, room, service
from sdk.schemas.artifacts import Transfer
from sdk.schemas.scores import MOST_EXAMPLES, MOST_TARGETS, Comparison, EvaluationView, SlicedScores
from sdk.schemas.wire import Page

router = room("/evaluations", "evaluations")

EvaluationsDep = Annotated[Evaluations, service(Evaluations)]


EvaluationRowsDep = Annotated[EvaluationRows, service(EvaluationRows)]

#: Whose scores are meant.
ScoresOf = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        description="Take the scores that jobs of this namespace made; `*`: of all that you may read, the newest first. Without it, a version's scores are those that its own namespace made.",
        examples=["team"],
    ),
]


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
    whose: WhoseBase,
    ref: Annotated[
        list[Annotated[str, Query(max_length=1000)]],
        Query(
            min_length=2,
            max_length=MOST_TARGETS,
            description='Versions, and bare bases as "base:ID".',
            examples=[["team/code-review@v3", "team/code-review@v4"]],
        ),
    ],
    metric: Annotated[
        str | None, Query(min_length=1, max_length=100, description="The score that is compared; without it, the loss.")
    ] = None,
    data: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=300,
            description="The dataset, by name or digest, where all were scored on several.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        Query(min_length=1, max_length=200, description="A column of the dataset: its equal rows go together."),
    ] = None,
    examples: Annotated[
        int, Query(ge=0, le=MOST_EXAMPLES, description="Rows to show side by side, those that changed most.")
    ] = 0,
    detect: Annotated[
        float | None,
        Query(ge=1e-9, le=1e9, description="A difference: how many rows show it? Without it, the one that was found."),
    ] = None,
    scores_of: ScoresOf = None,
) -> Comparison:
    """Compare targets that were scored alike on the same rows, row by row, each with each."""
    return await apart(
        comparisons.compare,
        lane="reading long",
        refs=ref,
        metric=metric,
        data=data,
        by=by,
        examples=examples,
        detect=detect,
        scores_of=scores_of,
        whose=whose,
        who=who,
    )
