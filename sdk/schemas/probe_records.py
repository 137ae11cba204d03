"""What replays of versions' probes found, as the registry keeps it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from sdk.formats.refs import parse_name
from sdk.schemas.aliases import Name
from sdk.schemas.wire import IF_SET, Sha256, Wire


class ProbeRecord(Wire):
    """What a replay of a version's probe found."""

    adapter: Annotated[Name, AfterValidator(parse_name)]
    number: Annotated[int, Field(ge=1, le=10**9)]
    digest: Sha256
    #: Whether it agrees with the record, by the tolerances of `verify --probe`.
    agrees: bool
    #: The largest difference of a logit from the record, and how much rounding allows.
    difference: Annotated[Annotated[float, Field(ge=0, le=1e15)] | None, IF_SET] = None
    tolerance: Annotated[Annotated[float, Field(ge=0, le=1e15)] | None, IF_SET] = None
    message: Annotated[str, Field(max_length=1000)] = ""


class ProbeRecordView(ProbeRecord):
    """A replay as the registry keeps it."""

    created_by: str
    created_at: datetime
