"""What the holder of a token may do, for a gateway that was given the token by somebody who asks it for something."""

from __future__ import annotations

from sqlalchemy import select

from registry.access.models import Token, in_use
from registry.db.database import Database
from registry.db.types import utc_now
from registry.principal import EVERYWHERE, Principal, Role
from sdk.schemas.access import GrantView
from sdk.schemas.serving import TokenStanding

#: For how long an answer may be relied on: a revoked token is refused by gateways after that.
VALID_S = 5.0


class Standings:
    """The service that says it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, sha256: str, *, who: Principal) -> TokenStanding:
        """Return the grants of the token with this digest, in the namespaces that the caller is a gateway of.

        There are none for a token that is unknown, expired or revoked, or has no role there; which of these it is isn't said. Raises
        Forbidden unless the caller is a gateway anywhere.
        """
        who.require_anywhere("serve")
        now = utc_now()
        with self._db.read() as session:
            token = session.scalars(select(Token).where(Token.secret_sha256 == sha256, in_use())).first()
        if token is None:
            return TokenStanding(grants=[], valid_for_s=VALID_S)
        left_s = VALID_S if token.expires_at is None else (token.expires_at - now).total_seconds()
        given = {(grant.namespace, Role(grant.role)) for grant in token.grants}
        served = who.namespaces("serve")
        if served is not None:
            # A role in all namespaces is one in each of the gateway's, and what the token may do elsewhere is not its business.
            given = {(space, role) for namespace, role in given for space in served if namespace in (space, EVERYWHERE)}
        grants = [GrantView(namespace=namespace, role=role.value) for namespace, role in sorted(given)]
        return TokenStanding(grants=grants, valid_for_s=max(0.0, min(VALID_S, left_s)))
