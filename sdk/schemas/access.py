"""Tokens, roles, quotas and the audit trail, as sent over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from sdk.formats.visible_labels import parse_label
from sdk.schemas.wire import Open, Wire

RoleName = Literal["reader", "writer", "promoter", "worker", "server", "admin"]

#: A namespace, "-" for names without one, or "*" for all.
Where = Annotated[str, Field(min_length=1, max_length=64, examples=["team"])]


#: The name of a token: who holds it.
TokenName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(parse_label)]


class GrantView(Wire):
    """A role in a namespace."""

    namespace: Where
    role: Annotated[RoleName, Open]


class TokenRequest(Wire):
    """A request to create a token, possibly replacing the one with the same name."""

    #: Who will hold it; shown in histories and the audit trail.
    name: Annotated[TokenName, Field(examples=["ci-review"])]
    grants: Annotated[list[GrantView], Field(min_length=1, max_length=100)]
    #: Days after which it expires; None: never.
    days: Annotated[int, Field(ge=1, le=3650)] | None = None
    #: Whether to end the tokens with this name in these namespaces, all of which the caller must administer.
    replace: bool = False
    #: Hours after which they end; 0: at once.
    overlap_hours: Annotated[int, Field(ge=0, le=720)] = 0


class NamespaceRevocation(Wire):
    """A request to remove every token's role in a namespace."""

    namespace: Where


class LostGrant(Wire):
    """A token that has lost its role in a namespace."""

    token: str
    name: str
    role: RoleName
    #: Whether that was its only role, so that the token is revoked.
    revoked: bool


class RevocationView(Wire):
    """What happened to the tokens of a namespace."""

    namespace: str
    lost: list[LostGrant]
    #: The caller's own token, which keeps its role.
    kept: str | None
    #: How many tokens with a role in all namespaces keep it here.
    everywhere: int


class TokenView(Wire):
    """A token without its secret."""

    id: str
    name: str
    grants: list[GrantView]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewToken(TokenView):
    """A token with its secret, which is shown only once."""

    secret: str

    def __repr__(self) -> str:
        return f"NewToken(id={self.id!r}, name={self.name!r})"

    __str__ = __repr__


class SignInCodeView(Wire):
    """A code that signs its owner in to the pages, once."""

    code: str
    #: How long it can be traded for a session, in seconds.
    expires_in_s: int

    def __repr__(self) -> str:
        return f"SignInCodeView(expires_in_s={self.expires_in_s!r})"

    __str__ = __repr__


class Whoami(Wire):
    """Who the caller is to the registry."""

    name: str
    grants: list[GrantView]
    #: The id of the token; None if the registry needs no tokens.
    token: str | None = None


class QuotaLimits(Wire):
    """The limits of a namespace; None means no limit."""

    #: Names of adapters that ever had a version.
    max_adapters: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    #: Bytes of all the kinds that a `QuotaView` counts, together.
    max_bytes: Annotated[int, Field(ge=0, le=2**62)] | None = None
    #: Jobs waiting or running.
    max_jobs: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    #: Bytes of records in the database.
    max_record_bytes: Annotated[int, Field(ge=0, le=2**62)] | None = None


class QuotaView(QuotaLimits):
    """The limits of a namespace, and how much of them is used."""

    namespace: str
    #: Whether these are the default limits, for namespaces without their own, set by an admin or the server's
    #: settings.
    default: bool = False
    adapters: int
    #: Bytes of all kinds together.
    size_bytes: int
    #: Versions that are not deleted.
    versions_bytes: int
    #: Datasets that were not removed.
    datasets_bytes: int
    #: Files of bases.
    bases_bytes: int
    #: Merged models.
    merged_bytes: int
    checkpoints_bytes: int
    #: Scores of evaluations by row.
    evaluations_bytes: int
    #: Space reserved for uploads in progress.
    reserved_bytes: int
    #: What is recorded in the database about bases, versions, evaluations, jobs, checkpoints and uploads.
    records_bytes: int
    jobs: int


class AuditView(Wire):
    """One change."""

    id: int
    at: datetime
    actor: str
    token: str | None
    #: "alias.move", "version.archive", "token.revoke" …
    action: str
    namespace: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
