"""Statements by which signers vouch for what an alias names, since which move, for readers who have their keys.

The registry believes none of them. It sees to it that a statement says what is so now, by whichever key; whether that key
has signed it is for readers to verify, and whether it may speak for the alias for them to decide.
"""

from __future__ import annotations

from collections import Counter

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.aliases.moving import require_movable, require_there
from registry.catalog.aliases.present import last_move
from registry.catalog.models import Adapter, Alias, Version
from registry.catalog.versions.finding import exact_ref, find_adapter
from registry.db.database import Database
from registry.db.types import db_now, utc_now
from registry.errors import Conflict, Invalid, InvalidName, Verification
from registry.principal import Principal
from registry.promotion.generations import scopes_of
from registry.promotion.models import Policy, StatementRow
from registry.promotion.policies.finding import newest
from registry.usage.charging import charge, record_bytes
from sdk.errors import InvalidInput, VerificationFailed
from sdk.formats.refs import BadNameError, parse_alias
from sdk.schemas.statements import (
    AHEAD_S,
    MOST_SIGNERS,
    AliasStatement,
    SignedStatement,
    SignedStatementView,
    StatedAlias,
)
from sdk.signing import STATEMENT_FILE, check_bundle, key_id_of


class Statements:
    """The service over the table of statements."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def about(self, *, adapter: str, alias: str, who: Principal) -> StatedAlias:
        """What an alias names now, and the newest statement of each signer. Raises InvalidName, NotFound."""
        try:
            parse_alias(alias)
        except BadNameError as error:
            raise InvalidName(str(error), param="alias") from None
        with self._db.read() as session:
            row = find_adapter(session, adapter, who)
            version, move = _named(session, row, alias)
            mine = (StatementRow.adapter_pk == row.pk, StatementRow.alias == alias)
            newest = (
                select(StatementRow).where(*mine).order_by(StatementRow.move.desc(), StatementRow.created_at.desc())
            )
            views = [_view(found) for found in session.scalars(newest.limit(MOST_SIGNERS))]
            return StatedAlias(
                adapter=row.name,
                alias=alias,
                ref=exact_ref(version),
                digest=version.digest,
                move=move,
                policies=_policies(session, row, alias),
                statements=[view for view in views if view is not None],
            )

    def hand_in(self, *, signed: SignedStatement, who: Principal) -> SignedStatementView:
        """Store a statement of what an alias names now; it replaces the one by the same key.

        Raises NotFound; Forbidden for who could not move the alias; Verification for a bundle over anything else or by
        another key; Conflict if the alias, or its policies, are not what it says, or the key has stated it later.
        """
        _require_own_key(signed)
        said = signed.statement
        with self._db.write() as session:
            row = find_adapter(session, said.adapter, who, action="write", lock=True)
            require_movable(session, row, said.alias, who)
            version, move = _named(session, row, said.alias)
            again = (
                f"sign what it names now with: adapterctl promote {exact_ref(version)} {said.alias} --renew --sign KEY"
            )
            if (said.move, said.digest) != (move, version.digest):
                raise Conflict(
                    f"{row.name}@{said.alias} names {exact_ref(version)} since move {move}, which is not what the statement "
                    f"says; {again}",
                    param="statement",
                )
            if said.policies != _policies(session, row, said.alias):
                raise Conflict(
                    f"the policies of {row.name}@{said.alias} are not those that the statement names; {again}",
                    param="statement",
                )
            ahead_s = said.at_s - db_now(session).timestamp()
            if ahead_s > AHEAD_S:
                raise Invalid(
                    f"the statement is from {said.at}, which is {ahead_s:.0f} s ahead of the registry's clock; "
                    "set the clock of the machine that signs",
                    param="statement",
                )
            return self._store(session, row, signed, who)

    def _store(
        self, session: Session, adapter: Adapter, signed: SignedStatement, who: Principal
    ) -> SignedStatementView:
        said = signed.statement
        document = said.model_dump()
        key = (adapter.pk, said.alias, signed.key_id)
        row = session.get(StatementRow, key, populate_existing=True)
        if row is None:
            _make_room(session, adapter, said.alias, said.move, who)
            row = StatementRow(adapter_pk=key[0], alias=key[1], key_id=key[2], record_bytes=0)
            session.add(row)
        elif row.statement == document and row.bundle == signed.bundle:
            return _present(row, said)
        elif row.move == said.move and str(row.statement.get("at", "")) > said.at:
            raise Conflict(
                f"this key has signed a later statement of {adapter.name}@{said.alias}, from {row.statement['at']}; look at it "
                f"with: adapterctl alias list {adapter.name}",
                param="statement",
            )
        row.move, row.digest, row.statement = said.move, said.digest, document
        row.public_key, row.bundle = signed.public_key, signed.bundle
        row.created_by, row.created_at = who.name, utc_now()
        size_bytes = record_bytes(document, signed.public_key, signed.bundle)
        charge(session, adapter.namespace, records=size_bytes - row.record_bytes)
        row.record_bytes = size_bytes
        after = {"key": signed.key_id, "move": said.move, "digest": said.digest, "at": said.at}
        record(session, who, "alias.sign", adapter.namespace, f"{adapter.name}@{said.alias}", after=after)
        session.flush()
        return _present(row, said)


def _named(session: Session, adapter: Adapter, alias: str) -> tuple[Version, int]:
    """What an alias names now, and the number of the move that made it so. Raises NotFound."""
    query = select(Version, last_move()).join(Alias, Alias.version_pk == Version.pk)
    row = session.execute(query.where(Alias.adapter_pk == adapter.pk, Alias.name == alias)).first()
    version = require_there(adapter, alias, None if row is None else row[0])
    return version, 0 if row is None else row[1] or 0


def _policies(session: Session, adapter: Adapter, alias: str) -> list[str]:
    """The digests of the policies that stand for an alias, sorted."""
    scopes = scopes_of(adapter.name, adapter.namespace)
    rows = session.scalars(newest().where(Policy.scope.in_(scopes), Policy.alias == alias))
    # The documents are not read: readers of statements get them also while a newer release has set a policy.
    return sorted({row.digest for row in rows if row.document is not None})


def _require_own_key(signed: SignedStatement) -> None:
    """Raise Verification unless the bundle is over exactly this statement and names the key that it is handed in for."""
    try:
        hint = check_bundle(signed.statement, signed.bundle, file=STATEMENT_FILE)
        key_id, own_hint = key_id_of(signed.public_key)
    except VerificationFailed as error:
        raise Verification(error.message, param="bundle") from error
    except InvalidInput as error:
        raise Invalid(error.message, param="public_key") from error
    if key_id != signed.key_id or own_hint != hint:
        raise Verification(
            f"the statement is not signed by the key {signed.key_id[:12]}, for which it was handed in; sign it again",
            param="key_id",
        )


def _make_room(session: Session, adapter: Adapter, alias: str, move: int, who: Principal) -> None:
    """Remove a statement if there are as many as may be: the oldest of an earlier move, else one by whoever has handed in
    most, since keys cost nothing and nobody keeps others out by many. Raises Conflict if everybody has handed in one.
    """
    mine = (StatementRow.adapter_pk == adapter.pk, StatementRow.alias == alias)
    rows = session.scalars(select(StatementRow).where(*mine).order_by(StatementRow.move, StatementRow.created_at)).all()
    if len(rows) < MOST_SIGNERS:
        return
    oldest = rows[0]
    if oldest.move >= move:
        counts = Counter(row.created_by for row in rows)
        most = max(counts, key=lambda name: (counts[name], name == who.name))
        if counts[most] == 1 and most != who.name:
            raise Conflict(
                f"{MOST_SIGNERS} people have signed that {adapter.name}@{alias} names this, and no more can; ask one of them to "
                "sign it again with your key",
                param="key_id",
            )
        oldest = next(row for row in rows if row.created_by == most)
    charge(session, adapter.namespace, records=-oldest.record_bytes)
    session.delete(oldest)


def _view(row: StatementRow) -> SignedStatementView | None:
    """A stored statement; None for one of a form that only a newer release has, since nobody could verify less of it."""
    try:
        return _present(row, AliasStatement.model_validate(row.statement))
    except ValidationError:
        return None


def _present(row: StatementRow, statement: AliasStatement) -> SignedStatementView:
    return SignedStatementView(
        statement=statement,
        key_id=row.key_id,
        public_key=row.public_key,
        bundle=row.bundle,
        created_by=row.created_by,
        created_at=row.created_at,
    )
