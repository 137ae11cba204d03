"""`Idempotency-Key`: what a request with a key has made is kept in the transaction that makes it, so no crash comes in between.

Jobs keep their keys themselves. Routes that take no key are safe to repeat by nature, or by what the caller expects.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from sqlalchemy import Index, String, Text, false, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from registry.db.statements import insert_if_new
from registry.db.types import Model, UtcDateTime, utc_now
from registry.errors import Conflict, Invalid
from registry.principal import Principal

_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x20-\x7e]{1,200}")
#: For OpenAPI; what doesn't fit is refused below, in words of our own.
_DOCUMENTED: Any = Header(
    alias=_HEADER,
    description="Any text that no other request of the caller has, such as a UUID. The same request with the same key makes "
    "nothing twice; another request with that key is answered with 409.",
    json_schema_extra={"minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
    examples=["6f1c5a52-9f0a-4d51-8b8e-3a1c2f0f5c1e"],
)


class KeyedRequest(Model):
    """A request with a key, and what it has made."""

    __tablename__ = "keyed_requests"
    __table_args__ = (
        Index(
            "ix_keyed_requests_long",
            "owner",
            "created_at",
            sqlite_where=text("is_long = 1"),
            postgresql_where=text("is_long"),
        ),
    )

    #: SHA-256 of the caller's token and rights.
    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    #: What distinguishes it from other requests: "claim" for claims, which are the same whatever a worker says about
    #: itself; SHA-256 of what is asked for others.
    request_digest: Mapped[str] = mapped_column(String(64))
    body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    #: These two are no longer used; databases of the development version have them.
    status: Mapped[int | None]
    is_long: Mapped[bool] = mapped_column(default=False, server_default=false())


async def _key(request: Request, _documented: Annotated[str | None, _DOCUMENTED] = None) -> str | None:
    keys = request.headers.getlist(_HEADER)
    if keys and (len(keys) > 1 or _KEY.fullmatch(keys[0]) is None):
        raise Invalid(
            f"an {_HEADER} is 1 to 200 printable ASCII characters, once; make one with: uuidgen",
            param="idempotency_key",
        )
    return keys[0] if keys else None


#: The key that a request was sent with.
IdempotencyKey = Annotated[str | None, Depends(_key)]


@dataclass(frozen=True)
class Keyed:
    """A request with a key."""

    #: Who sends it: the same key from somebody else is another key.
    owner: str
    key: str
    digest: str

    @classmethod
    def of(cls, who: Principal, key: str, digest: str) -> Keyed:
        """The keys are a token's, as long as its rights stay the same: what was made may be what it may no longer see."""
        owner = hashlib.sha256(json.dumps([who.owner, sorted(who.grants.items())]).encode()).hexdigest()
        return cls(owner, key, digest)


def keep(session: Session, request: Keyed, body: str) -> None:
    """Keep what a request has made, in the transaction that makes it.

    Raises Conflict if the same request is worked on in another transaction: it has to be sent again.
    """
    told = {"owner": request.owner, "key": request.key, "request_digest": request.digest}
    if not insert_if_new(session, KeyedRequest, **told, body=body):
        raise Conflict("this request was sent twice at once; send it again for its answer", param="idempotency_key")


def kept(session: Session, request: Keyed) -> str | None:
    """Return what `keep` was given for a request. Raises Conflict if its key was used for another one."""
    row = session.get(KeyedRequest, (request.owner, request.key))
    if row is not None and row.request_digest != request.digest:
        raise used_for_another()
    return None if row is None else row.body


def used_for_another() -> Conflict:
    """The error of a key that was used for another request."""
    return Conflict("this idempotency key was used for another request; use a new key", param="idempotency_key")
