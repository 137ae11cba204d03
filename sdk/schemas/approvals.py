"""Approvals of versions for an alias, and vetoes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sdk.formats.refs import parse_alias, parse_name
from sdk.schemas.aliases import AliasName, Name, Reason
from sdk.schemas.wire import Open, Wire

ApprovalKind = Literal["approve", "disapprove"]


class ApprovalRequest(Wire):
    """An approval of a version for an alias, or a veto."""

    adapter: Annotated[Name, AfterValidator(parse_name)]
    alias: Annotated[AliasName, AfterValidator(parse_alias)]
    number: Annotated[int, Field(ge=1, le=10**9, examples=[3])]
    kind: ApprovalKind
    reason: Reason = ""


class ApprovalWithdrawal(Wire):
    """The withdrawal of one's own approval or veto."""

    id: Annotated[str, Field(max_length=32)]


class ApprovalView(Wire):
    """An approval or a veto, and whether it counts."""

    id: str
    adapter: str
    alias: str
    ref: str
    digest: str
    kind: Annotated[ApprovalKind, Open]
    reason: str
    #: Why it does not count any more, or does not; None: it does.
    void: str | None
    created_by: str
    created_at: datetime
    withdrawn_at: datetime | None = None
    expires_at: datetime | None = None
