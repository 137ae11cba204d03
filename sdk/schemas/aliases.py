"""Aliases, their moves and their protection, as sent over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, field_validator

from sdk.formats.refs import parse_alias, parse_name
from sdk.schemas.wire import IF_ANY, IF_SET, Wire

Reason = Annotated[str, Field(max_length=1000, examples=["beats v2 on heldout.jsonl"])]
Name = Annotated[str, Field(examples=["team/code-review"])]
AliasName = Annotated[str, Field(examples=["production"])]


class _OfAlias(Wire):
    adapter: Name
    alias: AliasName
    #: The version that it must name now (0: none), otherwise nothing is done; None: any.
    expect: Annotated[int, Field(ge=0, le=10**9)] | None = None
    reason: Reason = ""
    #: Do it although a policy does not hold, for this reason; for admins.
    override: Annotated[bool, IF_ANY] = False

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        return parse_alias(value)


class AliasMove(_OfAlias):
    """A request to move an alias by compare-and-set."""

    #: The version that it should name.
    number: Annotated[int, Field(ge=1, le=10**9, examples=[3])]


class AliasRollback(_OfAlias):
    """A request to point an alias back at what it named before its last move."""

    #: The version that it must name now (0: none), otherwise nothing is done: sent again, it goes back no further.
    expect: Annotated[int, Field(ge=0, le=10**9)]


class AliasRemoval(_OfAlias):
    """A request to remove an alias."""


class AliasView(Wire):
    """An alias and the version that it names."""

    adapter: str
    alias: str
    ref: str
    number: int
    #: Whether only promoters may move it.
    protected: bool
    moved_at: datetime
    moved_by: str
    #: The number of its last move; later moves have larger ones. 0: not known.
    move: Annotated[int, IF_ANY] = 0
    #: The decision that let it move; None: no policy stood.
    decision: Annotated[str | None, IF_SET] = None
    #: Whether what was asked for has moved it: it stays where it is already. Only in the answer to that.
    moved: Annotated[bool | None, IF_SET] = None


class AliasMoveView(Wire):
    """One move of an alias."""

    adapter: str
    alias: str
    #: "set", "rollback" or "remove".
    kind: str
    from_number: int | None
    to_number: int | None
    reason: str
    moved_by: str
    moved_at: datetime
    #: The number of the move; later moves have larger ones. 0: not known.
    move: Annotated[int, IF_ANY] = 0
    #: The decision that let it move, and what that came to: "passed", "overridden", "rolled_back". None: no policy stood.
    decision: Annotated[str | None, IF_SET] = None
    outcome: Annotated[str | None, IF_SET] = None


class Protection(Wire):
    """An alias that only promoters may move."""

    #: An adapter's name, `NAMESPACE/*`, or `*`.
    scope: Annotated[str, Field(max_length=129, examples=["team/*"])]
    alias: AliasName


class ProtectionView(Protection):
    """A protection, and who set it."""

    created_by: str
    created_at: datetime
