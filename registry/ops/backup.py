"""A copy of an SQLite database that is in use. PostgreSQL brings its own `pg_dump`.

>>> back_up(Database("postgresql://registry@db/registry"), Path("/srv/backup/registry.sqlite3"))
Traceback (most recent call last):
registry.errors.Invalid: the database is not an SQLite file; back it up with: pg_dump --format=custom --file=FILE "$REGISTRY_DATABASE_URL"
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from registry.db.database import Database
from registry.errors import Invalid, Unavailable
from sdk.whole_files import give_name

#: How many pages are copied between two looks at the clock: 4 MB of a database like ours.
_PAGES = 1000


def back_up(
    database: Database, target: Path, *, within_s: float = 3600.0, clock: Callable[[], float] = time.monotonic
) -> None:
    """Copy an SQLite database into a new file, as it is at one moment; readers and writers can continue.

    Raises Invalid for another kind of database and for a file that exists, Unavailable if it can't be written, or if
    copying takes longer than `within_s`.
    """
    if database.engine.dialect.name != "sqlite":
        raise Invalid(
            'the database is not an SQLite file; back it up with: pg_dump --format=custom --file=FILE "$REGISTRY_DATABASE_URL"',
            param="REGISTRY_DATABASE_URL",
        )
    if database.revision() is None:
        raise Invalid(
            f"there is no registry in {database.engine.url.database}; check the URL of its database",
            param="REGISTRY_DATABASE_URL",
        )
    if target.exists():
        raise Invalid(f"{target} already exists; name a new file", param="file")
    partial = target.with_name(f"{target.name}.partial")
    try:
        # It contains hashes of tokens. And somebody else's half-finished backup must not be written to.
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _copy(database, partial, _Deadline(within_s, clock))
            give_name(partial, target, durable=True, replace=False)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(
            f"the backup {target} can't be written ({error}); check the folder, its permissions and its space"
        ) from error


class _Deadline:
    def __init__(self, within_s: float, clock: Callable[[], float]) -> None:
        self._within_s, self._clock = within_s, clock
        self._end = clock() + within_s

    def look(self, *_progress: int) -> None:
        """Raise Unavailable if the time is over."""
        if self._clock() > self._end:
            raise Unavailable(
                f"the backup took longer than {self._within_s:g} s; give it more with --timeout-s, or a faster disk"
            )


def _copy(database: Database, partial: Path, deadline: _Deadline) -> None:
    copy = sqlite3.connect(partial)
    try:
        with database.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            # All steps are in one read transaction, which doesn't block writers. Without it, each writer between two
            # steps would make the copy begin again.
            driver.execute("BEGIN")
            driver.execute("SELECT 1 FROM sqlite_master").fetchone()
            driver.backup(copy, pages=_PAGES, progress=deadline.look)
        # A single file, without a log next to it that a copy of the backup could miss.
        copy.execute("PRAGMA journal_mode=DELETE")
    finally:
        copy.close()
