"""Running a preview from its order."""

from __future__ import annotations

from sdk.schemas.failures import FailureReason
from sdk.schemas.preview import Preview
from workers.pipelines.data.order import PreviewOrder
from workers.pipelines.data.preview import preview
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import Host

ORDER = PreviewOrder


def carry_out(order: PreviewOrder, host: Host) -> Preview:
    """Return what a training would learn from the rows."""
    del host
    found = preview(order.asked)
    if not found.rows:
        raise PipelineError(
            FailureReason.DATA,
            f"the dataset has {found.file_rows} rows and no row {order.asked.row}; give one from 1 to {found.file_rows}",
        )
    return found
