"""Signed statements of what an alias names, made and handed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sdk import config
from sdk.api.statements import StatementRoutes
from sdk.api.transport import Transport
from sdk.errors import AdapterctlError, Conflict, InvalidInput, VerificationFailed
from sdk.schemas.aliases import AliasView
from sdk.schemas.statements import AliasStatement, SignedStatement, SignedStatementView
from sdk.signing import STATEMENT_FILE, PublicKey, read_public_half, sign


@dataclass(frozen=True)
class SigningKey:
    """A private key that can sign."""

    path: Path
    password: str | None = field(repr=False)
    public: PublicKey

    @classmethod
    def of(cls, key: str | Path | None, password: str | None) -> SigningKey:
        """Return the key in a PEM file, or the one that `ADAPTERCTL_SIGNING_KEY` names.

        Raises NotFound, InvalidInput, Unavailable without `[signing]`.
        """
        path = config.signing_key() if key is None else config.user_path(key)
        if path is None:
            raise InvalidInput("there is no key to sign with; give --sign, or set ADAPTERCTL_SIGNING_KEY", param="sign")
        password = password or config.signing_password()
        return cls(path, password, read_public_half(path, password))


def state_alias(
    transport: Transport, adapter: str, alias: str, digest: str, key: SigningKey, *, move: int | None = None
) -> SignedStatementView:
    """State that an alias names these bytes since its last move, which must be `move` if that is given.

    Raises Conflict if the alias names anything else, or has moved since; NotFound, NotAllowed, VerificationFailed.
    """
    routes = StatementRoutes(transport)
    now = routes(adapter, alias)
    if (now.adapter, now.alias) != (adapter, alias):
        raise VerificationFailed(f"the registry answers with another alias than {adapter}@{alias}; tell an admin")
    if now.digest != digest or move not in (None, now.move):
        raise Conflict(
            f"{adapter}@{alias} names {now.ref} since move {now.move}, so nothing was signed; look at it with: "
            f"adapterctl alias history {adapter} {alias}",
            param="alias",
        )
    statement = AliasStatement(
        adapter=adapter,
        alias=alias,
        move=now.move,
        digest=digest,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        policies=now.policies,
    )
    signed = sign(statement, key.path, key.password, file=STATEMENT_FILE)
    pem = key.public.pem.decode()
    return routes.hand_in(
        SignedStatement(statement=statement, key_id=signed.key_id, public_key=pem, bundle=signed.bundle)
    )


def state_move(transport: Transport, moved: AliasView, digest: str, key: SigningKey) -> SignedStatementView:
    """State that an alias which has just moved names these bytes.

    Raises what `state_alias` does, with a message that says that it has moved, and how to sign it now.
    """
    try:
        return state_alias(transport, moved.adapter, moved.alias, digest, key, move=moved.move or None)
    except AdapterctlError as error:
        again = f"adapterctl promote {moved.ref} {moved.alias} --renew --sign {key.path}"
        raise type(error)(
            f"{moved.adapter}@{moved.alias} names {moved.ref} now, but that is not signed: {error.message}; then run: {again}",
            param=error.param,
        ) from error
