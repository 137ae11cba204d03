"""The rows that a version was trained on, and those of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from fastapi import Path, Query, Request
from fastapi.responses import Response

from registry.errors import Invalid, InvalidData, NotFound, RegistryError, Verification
from registry.evaluations.picking import Other, PickQuestion, RowPicks, first_metric, metrics_of
from registry.evaluations.slicing import Slicing
from registry.http.paths import PAGES
from registry.http.routes import answered, apart, service
from registry.jobs.seen_rows import TrainedOnRows
from registry.principal import Principal
from registry.web.naming import NamedDatasets
from registry.web.pages import Visitor, page, pages
from sdk.formats.refs import Ref
from sdk.schemas.evaluation import better_is
from sdk.schemas.picked_rows import PickedRow, PickedRows, RowPage
from sdk.schemas.scores import SlicedScores
from sdk.schemas.training_rows import TrainingRowsView

router = pages()

PicksDep = Annotated[RowPicks, service(RowPicks)]

#: Which rows are shown first: all of them, or some.
Which = Literal["worst", "best", "changed", "all"]
#: Scores whose rows can't be shown are shown without, with the reason.
_WITHOUT_ROWS: tuple[type[RegistryError], ...] = (NotFound, Invalid, InvalidData, Verification)


@router.get(f"{PAGES}adapters/{{adapter:path}}/v{{number:version}}/rows")
async def show_training_rows(
    request: Request,
    trained_on: Annotated[TrainedOnRows, service(TrainedOnRows)],
    who: Visitor,
    adapter: Annotated[str, Path(max_length=200)],
    number: Annotated[int, Path(ge=1, le=10**9)],
) -> Response:
    """Show the first rows that a version was trained on."""
    ref = str(Ref(adapter, f"v{number}"))
    found, why = await answered(trained_rows, trained_on, ref, who=who)
    return page(request, "rows/training.html", adapter=adapter, number=number, ref=ref, trained=found, why_none=why)


def trained_rows(trained_on: TrainedOnRows, ref: str, *, who: Principal) -> tuple[TrainingRowsView | None, str | None]:
    """Return the first rows of the training of a version, or why there are none. Raises NotFound for a version that isn't
    there.
    """
    try:
        return trained_on.get(ref, who=who), None
    except NotFound as error:
        if trained_on.is_there(ref, who=who):
            return None, error.message
        raise


class _Shown(NamedTuple):
    """What a page shows of rows of scores."""

    picked: PickedRows | None = None
    paged: RowPage | None = None
    slices: SlicedScores | None = None
    #: Why there is nothing to show.
    why_none: str | None = None


@router.get(f"{PAGES}evaluations/{{ident}}")
async def show_evaluation(
    request: Request,
    picks: PicksDep,
    slicing: Annotated[Slicing, service(Slicing)],
    datasets: Annotated[NamedDatasets, service(NamedDatasets)],
    who: Visitor,
    ident: Annotated[str, Path(max_length=64)],
    show: Which = "worst",
    metric: Annotated[str | None, Query(max_length=100)] = None,
    against: Annotated[str | None, Query(max_length=64)] = None,
    by: Annotated[str | None, Query(max_length=200)] = None,
    value: Annotated[str | None, Query(max_length=400)] = None,
    number: Annotated[int, Query(alias="page", ge=1, le=10**6)] = 1,
) -> Response:
    """Show rows of an evaluation: worst, best, most changed, of one slice, or all page by page."""
    scores = await answered(picks.scores, ident, who=who)
    metric = metric or first_metric(scores)
    others = await answered(picks.others, scores, metric=metric, who=who)
    other = _chosen(others, against)
    asked = PickQuestion(scores, metric, None if other is None else other.scores, by or None, value if by else None)
    shown = await _rows(picks, slicing, asked, show, number, who)
    names = await answered(datasets.of, {scores.dataset}, who=who)
    return page(
        request,
        "rows/evaluation.html",
        scores=scores,
        dataset_name=names.get(scores.dataset),
        metric=metric,
        metrics=metrics_of(scores),
        others=others,
        other=other,
        show=show,
        by=by or "",
        value=value,
        number=number,
        rows=[] if shown.picked is None else _of(shown.picked, show, metric),
        better=better_is(metric),
        **shown._asdict(),
    )


async def _rows(
    picks: RowPicks, slicing: Slicing, asked: PickQuestion, show: Which, number: int, who: Principal
) -> _Shown:
    ident = asked.scores.id
    try:
        if show == "all":
            return _Shown(paged=await apart(picks.page, lane="reading long", ident=ident, number=number, who=who))
        slices = None
        if asked.by is not None:
            slices = await apart(slicing.slices, lane="reading long", ident=ident, by=asked.by, who=who)
            if asked.value is None:
                return _Shown(slices=slices)
        found = await answered(picks.kept, asked, who=who)
        if found is None:
            found = await apart(picks.pick, lane="reading long", asked=asked, who=who)
        return _Shown(picked=found, slices=slices)
    except _WITHOUT_ROWS as error:
        return _Shown(why_none=error.message)


def _chosen(others: Sequence[Other], against: str | None) -> Other | None:
    """Return what is compared with: the one that was asked for, or the first."""
    return next((other for other in others if other.scores.id == against), others[0] if others else None)


def _lower_is_better(metric: str) -> bool:
    return better_is(metric) == "less"


def _of(picked: PickedRows, show: Which, metric: str) -> list[PickedRow]:
    if show == "changed":
        return picked.changed
    return picked.high if _lower_is_better(metric) == (show == "worst") else picked.low
