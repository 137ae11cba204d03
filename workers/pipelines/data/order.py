"""The order of a preview."""

from __future__ import annotations

from typing import Literal

from sdk.schemas.preview import PreviewRequest
from workers.pipelines.orders import Order


class PreviewOrder(Order):
    """Show rows as a training would learn them."""

    pipeline: Literal["data"] = "data"
    asked: PreviewRequest
