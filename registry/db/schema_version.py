"""The revision of the schema: which one this program knows, which one a database has, and the way to it."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from registry.deadlines import Timeouts
from registry.errors import Unavailable


def migrations_folder() -> Path:
    """Where the migrations are: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def head_revision() -> str:
    """The newest revision that this code knows, read from file names so that Alembic need not be imported."""
    numbers = [
        match[1]
        for path in (migrations_folder() / "versions").glob("*.py")
        if (match := re.match(r"(\d{4})_", path.name))
    ]
    return max(numbers)


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema as it is, or None for an empty database."""
    try:
        revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except (OperationalError, ProgrammingError) as error:
        # "No such table" is an operational error with SQLite, and a programming error with PostgreSQL.
        if "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01":
            return None
        raise
    return revision


def run_migrations(engine: Engine, timeouts: Timeouts) -> None:
    """Bring the schema to the newest revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["engine"] = engine
    config.attributes["within_s"] = timeouts.migration_s
    config.attributes["lock_timeout_s"] = timeouts.migration_lock_s
    command.upgrade(config, "head")


def too_new(present: str, head: str) -> Unavailable:
    """The error if the schema is newer than this program."""
    return Unavailable(
        f"the database is at revision {present}, newer than this program's {head}; "
        "upgrade with: pip install --upgrade adapterctl"
    )
