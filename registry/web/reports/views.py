"""Reports: for clients."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.http.routes import Reader, apart, room, service, written
from registry.web.reports.query import ReportQuery
from registry.web.reports.service import ReportWriter
from sdk.schemas.reports import ReportView

router = room("/reports", "reports")


@router.get("", response_model=ReportView)
async def make_report(
    reports: Annotated[ReportWriter, service(ReportWriter)], who: Reader, asked: Annotated[ReportQuery, Query()]
) -> Response:
    """Write a report to send, of what the caller may see: whole in one file. One with rows is in the audit trail."""
    return written(await apart(reports.make, lane="reading long", asked=asked, who=who), 200)
