"""Statements by which a signer vouches for what an alias names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sdk import config
from sdk.api import versions
from sdk.api.statements import StatementRoutes
from sdk.errors import AdapterctlError, Conflict, InvalidInput, VerificationFailed
from sdk.names import check_alias, parse_ref
from sdk.objects import Registry
from sdk.pulling.pins import require_pinned
from sdk.pushing.signatures import require_own_digest
from sdk.schemas.aliases import AliasView
from sdk.schemas.promotion import AliasStatement, SignedStatement, SignedStatementView
from sdk.signing import STATEMENT_FILE, read_public_half, sign


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
        path, password = self.signing_key(key, password)
        parsed = parse_ref(ref)
        view = versions.resolve(self._registry.transport, str(parsed))
        require_pinned(parsed, view.adapter, view.number, view.digest)
        require_own_digest(view)
        return self._sign(parsed.adapter, alias, view.digest, path, password)

    def signing_key(self, key: str | Path | None, password: str | None) -> tuple[Path, str | None]:
        """Return the key and its password, given or by the environment, if they can sign.

        Raises InvalidInput, NotFound, Unavailable without `[signing]`.
        """
        path = config.signing_key() if key is None else config.user_path(key)
        if path is None:
            raise InvalidInput("there is no key to sign with; give --sign, or set ADAPTERCTL_SIGNING_KEY", param="sign")
        password = password or config.signing_password()
        read_public_half(path, password)
        return path, password

    def sign_move(self, moved: AliasView, digest: str, key: Path, password: str | None) -> SignedStatementView:
        """State that an alias which has just moved names these bytes.

        Raises what `sign` does, with a message that says that it has moved, and how to sign it now.
        """
        try:
            return self._sign(moved.adapter, moved.alias, digest, key, password, move=moved.move or None)
        except AdapterctlError as error:
            again = f"adapterctl promote {moved.ref} {moved.alias} --renew --sign {key}"
            raise type(error)(
                f"{moved.adapter}@{moved.alias} names {moved.ref} now, but that is not signed: {error.message}; then run: "
                f"{again}",
                param=error.param,
            ) from error

    def _sign(
        self, adapter: str, alias: str, digest: str, key: Path, password: str | None, *, move: int | None = None
    ) -> SignedStatementView:
        """State that an alias names these bytes since its last move, which must be `move` if that is given.

        Raises Conflict if the alias names anything else, or has moved since.
        """
        now = self(adapter, check_alias(alias))
        if (now.adapter, now.alias) != (adapter, alias):
            raise VerificationFailed(f"the registry tells of another alias than {adapter}@{alias}; tell an admin")
        if now.digest != digest or move not in (None, now.move):
            raise Conflict(
                f"{adapter}@{alias} names {now.ref} since move {now.move}, so nothing was signed; look at it with: "
                f"adapterctl alias history {adapter} {alias}",
                param="alias",
            )
        public = read_public_half(key, password)
        statement = AliasStatement(
            adapter=adapter,
            alias=alias,
            move=now.move,
            digest=digest,
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            policies=now.policies,
        )
        signed = sign(statement, key, password, file=STATEMENT_FILE)
        return self.hand_in(
            SignedStatement(
                statement=statement, key_id=signed.key_id, public_key=public.pem.decode(), bundle=signed.bundle
            )
        )
