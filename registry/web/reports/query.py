"""What a report is asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from registry.catalog.bases.names import BaseNamespace, IsPublished
from registry.evaluations.standing import ScoresOf
from registry.web.comparing.service import MOST_SIDES
from sdk.schemas.scores import MOST_EXAMPLES


class ReportQuery(BaseModel):
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
    metric: Annotated[
        str | None, Field(min_length=1, max_length=100, description="The score that is compared; left out: the loss.")
    ] = None
    data: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=300,
            description="The dataset on which rows are compared; left out: the one that most were scored on.",
        ),
    ] = None
    by: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="A column of the dataset: its equal rows go together."),
    ] = None
    detect: Annotated[float | None, Field(ge=1e-9, le=1e9, description="A difference: how many rows show it?")] = None
    scores_of: ScoresOf = None
    base_namespace: BaseNamespace = None
    published: IsPublished = False
