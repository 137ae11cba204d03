"""A report to send, as the registry writes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from sdk.schemas.wire import Open, Wire


class ReportView(Wire):
    """A report about an adapter, versions, a sweep or a decision, as it was at a moment."""

    title: str
    format: Annotated[Literal["html", "markdown"], Open]
    #: The whole file.
    text: str
    #: How many rows and samples are in it; if there are any, it was audited.
    rows: int
    made_at: datetime
