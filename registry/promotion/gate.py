"""The one gate through which aliases move: set, back, and removed."""

from __future__ import annotations

from registry.catalog.aliases.moving import MovedBy, movable, named_now, point, remove, require_there, undone_to
from registry.catalog.versions.finding import find_version
from registry.db.database import Database
from registry.principal import Principal
from sdk.formats.refs import Ref
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback, AliasView


class Gate:
    """The service that moves aliases."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def move(self, *, move: AliasMove, who: Principal) -> AliasView:
        """Point an alias at a version, if it names `expect` now (0: nothing).

        Raises NotFound, Forbidden if it is protected and the caller is not a promoter, Conflict.
        """
        with self._db.write() as session:
            adapter = movable(session, move.adapter, move.alias, who)
            version = find_version(session, Ref(move.adapter, f"v{move.number}"), who)
            by = MovedBy(who, move.reason)
            return point(session, adapter, move.alias, version, expect=move.expect, kind="set", by=by)

    def rollback(self, *, rollback: AliasRollback, who: Principal) -> AliasView:
        """Point an alias at the version that it named before its last move, if it names `expect` now (0: nothing).

        Raises NotFound for an alias that never existed, Conflict if it names another version, named none before, or that one is
        gone.
        """
        with self._db.write() as session:
            adapter = movable(session, rollback.adapter, rollback.alias, who)
            version = undone_to(session, adapter, rollback.alias)
            by = MovedBy(who, rollback.reason)
            return point(session, adapter, rollback.alias, version, expect=rollback.expect, kind="rollback", by=by)

    def remove(self, *, removal: AliasRemoval, who: Principal) -> None:
        """Remove an alias; its history stays. Raises NotFound, Forbidden, Conflict."""
        with self._db.write() as session:
            adapter = movable(session, removal.adapter, removal.alias, who)
            require_there(adapter, removal.alias, named_now(session, adapter, removal.alias))
            remove(session, adapter, removal.alias, expect=removal.expect, by=MovedBy(who, removal.reason))
