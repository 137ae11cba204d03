"""Signed statements of what aliases name."""

from __future__ import annotations

from sdk.api.transport import Routes
from sdk.names import check_alias, check_name
from sdk.schemas.statements import SignedStatement, SignedStatementView, StatedAlias


class StatementRoutes(Routes):
    """What can be asked about statements without a key."""

    def __call__(self, adapter: str, alias: str) -> StatedAlias:
        """What an alias names now, and the newest statement of each signer. Raises InvalidName, NotFound.

        The registry stores statements but vouches for none: `Client.pull` verifies them by a signer's public key.
        """
        params = {"adapter": check_name(adapter), "alias": check_alias(alias)}
        return self._transport.call("GET", "/aliases/statements", StatedAlias, params=params)

    def hand_in(self, signed: SignedStatement) -> SignedStatementView:
        """Hand in a statement that was signed; it replaces the one by the same key.

        Raises NotFound, NotAllowed, InvalidInput, VerificationFailed, Conflict if the alias is not what it says.
        """
        return self._transport.call("PUT", "/aliases/statement", SignedStatementView, body=signed)
