"""Reports that a reader of pages takes along."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from registry.http.paths import REPORTS
from registry.http.routes import apart, service
from registry.web.comparing.views import MOST_CHARACTERS, split_refs
from registry.web.forms import FormFields
from registry.web.pages import HEADERS, Visitor, form_of, pages
from registry.web.reports.query import ReportQuery
from registry.web.reports.service import ReportWriter
from sdk.schemas.reports import ReportView

router = pages()

_ENDINGS = {"html": "html", "markdown": "md"}
_TYPES = {"html": "text/html; charset=utf-8", "markdown": "text/markdown; charset=utf-8"}
#: A report is opened from a disk. Should a browser show it as a page of this origin, then as one that may do nothing.
_REPORT_HEADERS = {**HEADERS, "Content-Security-Policy": "sandbox; default-src 'none'"}


class ReportForm(FormFields):
    """What a reader asks a report for."""

    #: Refs, with blanks between.
    of: Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
    format: Literal["html", "markdown"] = "html"
    rows: Annotated[int, Field(ge=0, le=100)] = 0
    against: Annotated[str, Field(max_length=1000)] = ""
    metric: Annotated[str, Field(max_length=100)] = ""
    data: Annotated[str, Field(max_length=300)] = ""


@router.post(REPORTS)
async def save_report(
    request: Request, writer: Annotated[ReportWriter, service(ReportWriter)], who: Visitor
) -> Response:
    """Write a report, which the browser saves. It is a form, since one with rows is written into the audit trail."""
    form = form_of(request, ReportForm)
    asked = ReportQuery(
        of=split_refs([form.of]),
        format=form.format,
        rows=form.rows,
        against=form.against or None,
        metric=form.metric or None,
        data=form.data or None,
    )
    made: ReportView = await apart(writer.make, lane="reading long", asked=asked, who=who)
    name = re.sub(r"[^a-z0-9._-]+", "-", made.title.lower())[:80].strip("-.") or "report"
    disposition = {"Content-Disposition": f'attachment; filename="{name}.{_ENDINGS[asked.format]}"'}
    return Response(made.text, headers={**_REPORT_HEADERS, **disposition}, media_type=_TYPES[asked.format])
