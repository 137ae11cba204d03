"""Turning the switch, reading it, and refusing requests that would change something while it is on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.db.statements import insert_if_new, upsert
from registry.db.types import utc_now
from registry.errors import ReadOnly, RegistryError
from registry.http.paths import CODE, REPORTS, SIGN_IN, SIGN_OUT, area_of
from registry.http.refusals import refused
from registry.principal import EVERYWHERE, Principal
from sdk.version import API

if TYPE_CHECKING:
    from registry.db.database import Database

#: How long the database's answer is cached, in seconds: after that every process follows the switch.
TRUST_S = 1.0
_ROW = 1


_READS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Heartbeats are allowed, so that workers keep the jobs that they hold: an expired lease would restart a job from its
#: last checkpoint, and a heartbeat only adds events to that job. In an emergency, rights can still be taken away.
#: So can anybody sign in to look, and save a report: whoever writes it refuses one that has to be audited.
_LET_THROUGH = re.compile(
    rf"{API}/(jobs/[^/]+/heartbeat|tokens/([^/]+/)?revoke|sign-in-codes)|{SIGN_IN}|{SIGN_OUT}|{CODE}|{REPORTS}"
)


class ReadOnlySwitch:
    """The switch as stored in the database; if `forced` by this process's settings, it is on in any case."""

    def __init__(self, db: Database, *, forced: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._forced = forced
        self._clock = clock
        self._asked_at = float("-inf")
        self._known: str | None = None

    def turn_on(self, *, reason: str, who: Principal) -> None:
        """Refuse changes from now on, for a reason that refused callers are told; calling it again replaces the reason."""
        from registry.access.audit.service import record
        from registry.access.models import ReadOnlyRow

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
        """Allow changes again; repeating it is harmless."""
        from registry.access.audit.service import record
        from registry.access.models import ReadOnlyRow

        with self._db.write() as session:
            row = session.get(ReadOnlyRow, _ROW, with_for_update=True)
            if row is not None:
                session.delete(row)
                record(session, who, "readonly.clear", EVERYWHERE, "registry", before={"reason": row.reason})
        self._asked_at = float("-inf")

    def reason(self) -> str | None:
        """Why the registry is read-only, or None if it is not. May be a moment old, or older while the database is
        unavailable.
        """
        if self._forced:
            return "REGISTRY_READ_ONLY is set"
        if self.is_known:
            return self._known
        # Requests that only read don't get here, and need no table of these.
        from registry.access.models import ReadOnlyRow

        try:
            with self._db.read() as session:
                row = session.get(ReadOnlyRow, _ROW)
                self._known = None if row is None else row.reason
        except RegistryError:
            # Callers that want to change something get a different error in this case.
            return self._known
        self._asked_at = self._clock()
        return self._known

    @property
    def is_known(self) -> bool:
        """Whether `reason` answers without asking the database."""
        return self._forced or self._clock() - self._asked_at < TRUST_S

    def require_off(self) -> None:
        """Raise ReadOnly while nothing may be changed."""
        reason = self.reason()
        if reason is not None:
            raise ReadOnly(
                f"the registry is read-only ({reason}); reading works, and changes will work once an admin has "
                "run: adapter-registry read-only off"
            )


class KeepReadOnly:
    """ASGI middleware behind the gatekeeper: answers 503 to requests that change something, while that is forbidden."""

    def __init__(self, app: ASGIApp, *, switch: ReadOnlySwitch) -> None:
        self._app = app
        self._switch = switch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        path = scope.get("path", "")
        changes = scope["type"] == "http" and scope["method"] not in _READS and area_of(path).keeps_state
        if changes and _LET_THROUGH.fullmatch(path) is None:
            try:
                if self._switch.is_known:
                    self._switch.require_off()
                else:
                    await run_in_threadpool(self._switch.require_off)
            except ReadOnly as error:
                await refused(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
