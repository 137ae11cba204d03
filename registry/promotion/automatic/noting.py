"""Writes down what was done about a version."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.db.types import utc_now
from registry.principal import SYSTEM
from registry.promotion.automatic.candidates import Candidate, Sight
from registry.promotion.automatic.lifecycle import OPEN, AutomaticState
from registry.promotion.models import AUTOMATIC_BYTES, AutomaticRow
from registry.usage.charging import charge

#: The longest message.
_MOST_CHARS = 2000


def open_row(session: Session, key: tuple[int, str, str, str]) -> AutomaticRow | None:
    """Return a row with its lock; None if somebody has put an end to it."""
    row = session.get(AutomaticRow, key, with_for_update=True, populate_existing=True)
    return row if row is not None and row.state in OPEN else None


def row_of(session: Session, sight: Sight) -> AutomaticRow | None:
    """Return the row of a version with its lock, which is made if need be; None if somebody has put an end to it."""
    candidate = sight.candidate
    key = (candidate.adapter_pk, candidate.alias, candidate.digest, sight.policies_digest)
    new = insert_if_new(
        session,
        AutomaticRow,
        adapter_pk=candidate.adapter_pk,
        alias=candidate.alias,
        digest=candidate.digest,
        policies_digest=sight.policies_digest,
        number=candidate.number,
        state=AutomaticState.WAITING.value,
        jobs=[],
        message=None,
        generations=[],
        at=utc_now(),
    )
    if new:
        charge(session, candidate.namespace, records=AUTOMATIC_BYTES)
        # No set of policies ever stands again.
        _forget(session, candidate, AutomaticRow.policies_digest != sight.policies_digest)
    return open_row(session, key)


def _forget(session: Session, candidate: Candidate, which: ColumnElement[bool]) -> None:
    """Remove rows about an alias that nothing asks for any more; those of something that may still happen are ended first."""
    mine = (AutomaticRow.adapter_pk == candidate.adapter_pk, AutomaticRow.alias == candidate.alias)
    over = AutomaticRow.state.not_in([state.value for state in OPEN])
    gone = session.execute(delete(AutomaticRow).where(*mine, over, which).returning(AutomaticRow.digest)).all()
    charge(session, candidate.namespace, records=-len(gone) * AUTOMATIC_BYTES)


def note(db: Database, sight: Sight, state: AutomaticState, message: str | None) -> None:
    """Note what a version has come to, unless somebody else has noted something since it was looked at.

    What it waits for and why it ended without a move is in the audit trail, too: once, as long as it stays the same.
    """
    message = None if message is None else message[:_MOST_CHARS]
    with db.write() as session:
        row = row_of(session, sight)
        if row is None or not (row.at == sight.row.at if sight.row is not None else not row.generations):
            return
        if message is not None and (row.state, row.message) != (state, message):
            candidate = sight.candidate
            after = {"number": candidate.number, "state": state.value, "message": message}
            named = f"{candidate.adapter}@{candidate.alias}"
            record(session, SYSTEM, "alias.automatic", candidate.namespace, named, after=after)
        row.state, row.at, row.generations, row.message = state.value, utc_now(), list(sight.generations), message
        if state is AutomaticState.MOVED:
            # What is older than what an alias has named is not looked at again.
            _forget(session, sight.candidate, AutomaticRow.number < sight.candidate.number)
