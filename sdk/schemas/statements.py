"""Statements by which signers vouch for what an alias names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from sdk.formats.refs import parse_alias, parse_name
from sdk.schemas.aliases import AliasName, Name
from sdk.schemas.wire import Sha256, Wire, canonical_json

#: The most keys that may state what an alias names.
MOST_SIGNERS = 20
#: A statement may be so much ahead of the clock of whoever reads it, in seconds.
AHEAD_S = 300.0


class AliasStatement(Wire):
    """What the signer of a promotion states: this alias names these bytes since this move."""

    format: Literal["adapterctl.alias/1"] = "adapterctl.alias/1"
    adapter: Annotated[Name, AfterValidator(parse_name)]
    alias: Annotated[AliasName, AfterValidator(parse_alias)]
    #: The number of the move; later moves of an alias have larger ones.
    move: Annotated[int, Field(ge=1, le=2**53)]
    digest: Sha256
    #: When it was signed, by the signer's clock: "2026-01-31T12:00:00Z".
    at: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    #: Digests of the policies that stood then, sorted.
    policies: Annotated[list[Sha256], Field(max_length=3)]

    @field_validator("at")
    @classmethod
    def _at_is_a_time(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value

    @property
    def at_s(self) -> float:
        """When it was signed, in seconds since 1970."""
        return datetime.fromisoformat(self.at).timestamp()

    def canonical(self) -> bytes:
        """Return the bytes that are signed."""
        return canonical_json(self.model_dump())


class SignedStatement(Wire):
    """A statement with its signature."""

    statement: AliasStatement
    #: SHA-256 of the public key's DER form.
    key_id: Sha256
    #: In PEM, so that it can be seen that the bundle names this key; readers verify by the key that they have.
    public_key: Annotated[str, Field(max_length=2000)]
    #: A Sigstore bundle over the statement's canonical JSON.
    bundle: Annotated[str, Field(min_length=2, max_length=65_536)]


class SignedStatementView(SignedStatement):
    """A statement as the registry keeps it. Only the public key that a reader has can tell whether it is genuine."""

    created_by: str
    created_at: datetime


class StatedAlias(Wire):
    """What an alias names now, and what its signers have stated of it."""

    adapter: str
    alias: str
    ref: str
    digest: str
    #: The number of the move that made it name this.
    move: int
    #: Digests of the policies that stand for it, sorted.
    policies: list[str]
    #: The newest one of each signer, newest first; also of those that have stated nothing since earlier moves.
    statements: list[SignedStatementView]
