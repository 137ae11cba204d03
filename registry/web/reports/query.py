"""What a report is asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from registry.evaluations.comparing.service import ComparedBy
from registry.web.comparing.service import MOST_SIDES
from sdk.schemas.scores import MOST_EXAMPLES


class ReportQuery(ComparedBy):
    """What a report is about, how it is written, and which rows are in it."""

    of: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]],
        Field(
            min_length=1,
            max_length=MOST_SIDES,
            description='One adapter, one or several refs (also "base:ID" and "sweep:ID/N"), "sweep:ID", or "decision:ID".',
            examples=[["team/code-review@v3", "team/code-review@v4"]],
        ),
    ]
    format: Annotated[Literal["html", "markdown"], Field(description="HTML, whole in one file, or Markdown.")] = "html"
    rows: Annotated[
        int,
        Field(ge=0, le=MOST_EXAMPLES, description="How many rows, or samples, are in it; then it is audited."),
    ] = 0
    against: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=1000,
            description="The version that the others are compared with; left out: the first.",
        ),
    ] = None
