"""The order of a combination."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.combination import CombineSpec
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


class ParentFolder(Wire):
    """One adapter to be combined."""

    #: Its name in messages.
    label: str
    folder: str
    weight: float


class CombineOrder(Order):
    """Combine; the adapter's files go to the host's `out`."""

    pipeline: Literal["combining"] = "combining"
    parents: Annotated[list[ParentFolder], Field(min_length=1)]
    spec: CombineSpec
