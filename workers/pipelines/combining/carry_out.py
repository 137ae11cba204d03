"""Running a combination from its order."""

from __future__ import annotations

from sdk.schemas.combination import CombineReport
from workers.pipelines.combining.combine import combine
from workers.pipelines.combining.order import CombineOrder
from workers.pipelines.orders import Host

ORDER = CombineOrder


def carry_out(order: CombineOrder, host: Host) -> CombineReport:
    """Combine adapters of one base."""
    return combine(order.parents, order.spec, out=host.out, on_progress=host.report)
