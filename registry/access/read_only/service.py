"""Turning the switch, and asking how it stands."""

from __future__ import annotations

import time
from collections.abc import Callable

from registry.access.audit.service import record
from registry.access.read_only.models import ReadOnlyRow
from registry.db.clock import utc_now
from registry.db.database import Database
from registry.db.statements import insert_if_new, upsert
from registry.errors import ReadOnly, RegistryError
from registry.principal import EVERYWHERE, Principal

#: How long an answer of the database is believed, in seconds: so soon does the switch hold for every process.
TRUST_S = 1.0
_ROW = 1


class ReadOnlySwitch:
    """The switch as the database has it; `forced` by the settings of this process, it is on whatever that says."""

    def __init__(self, db: Database, *, forced: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._forced = forced
        self._clock = clock
        self._asked_at = float("-inf")
        self._known: str | None = None

    def turn_on(self, *, reason: str, who: Principal) -> None:
        """Let nothing be changed any more, for a reason that whoever is refused is told; again gives another reason."""
        said = {"reason": reason, "set_by": who.name, "since": utc_now()}
        with self._db.write() as session:
            before = None
            if not insert_if_new(session, ReadOnlyRow, id=_ROW, **said):
                row = session.get(ReadOnlyRow, _ROW, with_for_update=True)
                before = None if row is None else {"reason": row.reason}
                upsert(session, ReadOnlyRow, {"id": _ROW}, said)
            record(session, who, "readonly.set", EVERYWHERE, "registry", before=before, after={"reason": reason})
        self._asked_at = float("-inf")

    def turn_off(self, *, who: Principal) -> None:
        """Let things be changed again; again is harmless."""
        with self._db.write() as session:
            row = session.get(ReadOnlyRow, _ROW, with_for_update=True)
            if row is not None:
                session.delete(row)
                record(session, who, "readonly.clear", EVERYWHERE, "registry", before={"reason": row.reason})
        self._asked_at = float("-inf")

    def reason(self) -> str | None:
        """Why the registry is read-only, or None if it is not. As it was a moment ago, or where the database is away."""
        if self._forced:
            return "REGISTRY_READ_ONLY is set"
        if self.is_known:
            return self._known
        try:
            with self._db.read() as session:
                row = session.get(ReadOnlyRow, _ROW)
                self._known = None if row is None else row.reason
        except RegistryError:
            # Whoever wants to change something hears of it in other words.
            return self._known
        self._asked_at = self._clock()
        return self._known

    @property
    def is_known(self) -> bool:
        """Whether `reason` answers without a look at the database."""
        return self._forced or self._clock() - self._asked_at < TRUST_S

    def require_off(self) -> None:
        """Raise ReadOnly while nothing may be changed."""
        reason = self.reason()
        if reason is not None:
            raise ReadOnly(
                f"the registry is read-only ({reason}); reading works, and changes will work once an admin has "
                "run: adapter-registry read-only off"
            )
