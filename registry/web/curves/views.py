"""Curves of trainings: the numbers that `static/scripts/50-curves.js` draws, the same as a picture, and as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from registry.errors import Invalid
from registry.http.paths import PAGES
from registry.http.routes import answered, apart, service
from registry.principal import Principal
from registry.series.curves import Curves
from registry.series.drawing import By
from registry.web.curves.pictures import picture_of_drawing
from registry.web.curves.tables import tables_of
from registry.web.pages import HEADERS, Visitor, page, pages
from sdk.schemas.series import MOST_JOBS, MOST_SERIES

T = TypeVar("T")
router = pages()

#: Above how many curves their points are read among other long work.
_FEW = 8
#: Characters of a ref, with its comma.
_REF_CHARACTERS = 200


class _Which:
    """What a reader asks to be drawn."""

    def __init__(
        self,
        jobs: Annotated[str, Query(max_length=65 * MOST_JOBS)] = "",
        refs: Annotated[str, Query(max_length=_REF_CHARACTERS * MOST_JOBS)] = "",
        by: By = "step",
        keys: Annotated[str | None, Query(max_length=65 * MOST_SERIES)] = None,
    ) -> None:
        self.jobs, self.refs = _parts(jobs), _parts(refs)
        self.by: By = by
        self.keys = None if keys is None else frozenset(_parts(keys))
        if len(self.jobs) + len(self.refs) > MOST_JOBS:
            raise Invalid(f"more than {MOST_JOBS} curves are asked for; ask for fewer", param="refs")

    async def drawn(self, curves: Curves, who: Principal, then: Callable[..., T]) -> T:
        """Return what `then` makes of the curves."""
        asked: dict[str, Any] = {"jobs": self.jobs, "refs": self.refs, "by": self.by, "keys": self.keys, "who": who}

        def call() -> T:
            return then(curves.draw(**asked))

        if len(self.jobs) + len(self.refs) > _FEW:
            return await apart(call, lane="reading long")
        return await answered(call)


Which = Annotated[_Which, Depends(_Which)]
CurvesDep = Annotated[Curves, service(Curves)]


@router.get(f"{PAGES}series")
async def get_curves(which: Which, curves: CurvesDep, who: Visitor) -> Response:
    """The curves of trainings, as numbers."""
    text = await which.drawn(curves, who, lambda drawing: drawing.model_dump_json(exclude_defaults=True))
    return Response(text, headers=HEADERS, media_type="application/json")


@router.get(f"{PAGES}series.svg")
async def show_picture(which: Which, curves: CurvesDep, who: Visitor) -> Response:
    """The curves of trainings, as a picture."""
    text = await which.drawn(curves, who, picture_of_drawing)
    return Response(text, headers=HEADERS, media_type="image/svg+xml")


@router.get(f"{PAGES}series/table")
async def show_table(request: Request, which: Which, curves: CurvesDep, who: Visitor) -> Response:
    """The curves of trainings, as tables."""
    return await which.drawn(
        curves, who, lambda drawing: page(request, "curves/table.html", drawing=drawing, tables=tables_of(drawing))
    )


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part]
