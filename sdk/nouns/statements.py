"""Statements by which a signer vouches for what an alias names."""

from __future__ import annotations

from pathlib import Path

from sdk.api import versions
from sdk.api.statements import StatementRoutes
from sdk.names import check_alias, parse_ref
from sdk.objects import Registry
from sdk.pulling.pins import require_pinned
from sdk.pushing.signatures import require_own_digest
from sdk.pushing.statements import SigningKey, state_alias
from sdk.schemas.statements import SignedStatementView


class StatementsAPI(StatementRoutes):
    """Statements of what aliases name. Called, it lists those of an alias."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def sign(
        self, ref: str, alias: str, key: str | Path | None = None, *, password: str | None = None
    ) -> SignedStatementView:
        """State that an alias names the version that `ref` names, since its last move; it is not moved.

        It replaces the earlier statement by this key. `key` is a PEM file, by default the one that
        `ADAPTERCTL_SIGNING_KEY` names. Raises Conflict if the alias names something else, NotFound, NotAllowed,
        InvalidInput, VerificationFailed, Unavailable without `[signing]`.
        """
        signing_key = SigningKey.of(key, password)
        parsed, alias = parse_ref(ref), check_alias(alias)
        view = versions.resolve(self._registry.transport, str(parsed))
        require_pinned(parsed, view.adapter, view.number, view.digest)
        require_own_digest(view)
        return state_alias(self._registry.transport, parsed.adapter, alias, view.digest, signing_key)
