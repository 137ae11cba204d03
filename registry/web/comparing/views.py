"""The page that puts versions side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from registry.evaluations.comparing.service import Comparisons
from registry.http.paths import PAGES
from registry.http.routes import answered, apart, service
from registry.web.comparing.scores import ScoreRow
from registry.web.comparing.sections import scores_section, settings_section, versions_section
from registry.web.comparing.service import MOST_SIDES, ComparedSides, FoundSides
from registry.web.comparing.verdicts import (
    RowQuestion,
    RowVerdicts,
    changed_rows,
    judge,
    row_to_judge_by,
    verdict_section,
)
from registry.web.document import Drawn
from registry.web.pages import Visitor, long_page, page, pages
from sdk.schemas.scores import MOST_AGAINST_ONE

router = pages()

FoundSidesDep = Annotated[FoundSides, service(FoundSides)]
ComparisonsDep = Annotated[Comparisons, service(Comparisons)]

#: Between refs that are typed.
_BETWEEN = re.compile(r"[\s,]+")
#: More than so many are found and written among other long work.
_FEW = 8
#: Characters of all refs of one page.
MOST_CHARACTERS = 20_000


@router.get(f"{PAGES}compare")
async def show_comparison(
    request: Request,
    found: FoundSidesDep,
    comparisons: ComparisonsDep,
    who: Visitor,
    refs: Annotated[list[str], Query(max_length=MOST_SIDES, default_factory=list)],
    against: Annotated[str | None, Query(max_length=1000)] = None,
    by_score: Annotated[str | None, Query(max_length=200)] = None,
    rows: Annotated[int, Query(ge=0, le=20)] = 0,
    judged: bool = False,
) -> Response:
    """Put versions side by side; with `judged`, also compare their rows with those of one, by a score on a dataset."""
    asked = split_refs(refs)
    if not asked:
        return page(request, "comparing/empty.html", most=MOST_SIDES)
    find = partial(found.of, asked, who=who)
    beside = await (apart(find, lane="reading long") if len(asked) > _FEW else answered(find))
    question = _question(beside, against, by_score, rows)
    verdicts: RowVerdicts | None = None
    if judged and len(beside.sides) > 1:
        verdicts = await apart(
            judge, lane="reading long", comparisons=comparisons, beside=beside, question=question, who=who
        )

    def shown() -> dict[str, Any]:
        return {
            "refs": [side.ref for side in beside.sides],
            "meant": beside.named,
            "versions": versions_section(beside),
            "verdicts": None if verdicts is None else verdict_section(beside, verdicts),
            "changed": [] if verdicts is None else changed_rows(verdicts),
            "choices": _choices(beside, question),
            "against": question.against,
            "rows": rows,
            "most": MOST_AGAINST_ONE,
            "scores": scores_section(beside),
            "settings": settings_section(beside),
            "curves": Drawn("Curves", refs=[version.ref for version in beside.versions]),
            "report": {
                "of": [side.ref for side in beside.sides],
                "against": question.against,
                "metric": question.metric,
                "data": question.data,
            },
            "is_report": False,
        }

    return await long_page(request, "comparing/compare.html", shown, is_long=len(beside.sides) > _FEW)


def split_refs(texts: Sequence[str]) -> list[str]:
    return [ref for text in texts for ref in _BETWEEN.split(text[:MOST_CHARACTERS]) if ref]


def _question(beside: ComparedSides, against: str | None, by_score: str | None, rows: int) -> RowQuestion:
    """Return how rows are compared: a score is named as its metric and its dataset's digest, "loss:3f1a…"."""
    refs = [side.ref for side in beside.sides]
    first = beside.named.get(against or "", against)
    metric, _, data = (by_score or "").rpartition(":")
    question = RowQuestion(
        against=first if first in refs else refs[0], metric=metric or None, data=data if metric else None, rows=rows
    )
    if metric:
        return question
    row = row_to_judge_by(beside, question)
    return question if row is None else RowQuestion(question.against, row.metric, row.dataset, rows=rows)


def _choices(beside: ComparedSides, question: RowQuestion) -> list[tuple[str, str, bool]]:
    """The scores by which rows may be compared: what a form sends, what it shows, and whether it is the one."""
    found: dict[tuple[str, str], ScoreRow] = {}
    for row in beside.scores:
        if any(one.rows_digest is not None for one in row.of.values()):
            found.setdefault((row.metric, row.dataset), row)
    return [
        (
            f"{metric}:{dataset}",
            f"{metric} on {beside.datasets[dataset]}",
            (metric, dataset) == (question.metric, question.data),
        )
        for metric, dataset in found
    ]
