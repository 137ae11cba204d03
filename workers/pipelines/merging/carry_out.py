"""Running a merge from its order."""

from __future__ import annotations

from pathlib import Path

from sdk.schemas.evaluation import MergeReport
from workers.pipelines.merging.merge import merge
from workers.pipelines.merging.order import MergeOrder
from workers.pipelines.orders import Host

ORDER = MergeOrder


def carry_out(order: MergeOrder, host: Host) -> MergeReport:
    """Merge one adapter into its base."""
    return merge(
        base=Path(order.base),
        adapter=Path(order.adapter),
        quantization=order.quantization,
        labels=order.labels,
        out=host.out,
        spec=order.spec,
        on_progress=host.report,
        norms=order.norms,
        kept=None if order.kept is None else Path(order.kept),
    )
