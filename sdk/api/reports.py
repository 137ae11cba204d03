"""Reports to send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdk.api.transport import Transport
from sdk.schemas.reports import ReportView

#: Rows may be compared for it.
_WRITING_S = 600.0


def make(transport: Transport, of: Sequence[str], **asked: Any) -> ReportView:
    """Let the registry write a report; `asked` are the route's other parameters. Raises NotFound, InvalidInput, ReadOnly."""
    params = {"of": list(of), **asked}
    return transport.call("GET", "/reports", ReportView, params=params, timeout_s=_WRITING_S)
