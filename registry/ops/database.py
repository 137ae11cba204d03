"""How commands open the database of a registry."""

from __future__ import annotations

import os

from registry.db.database import Database
from registry.settings import Settings


def settings_at_home() -> Settings:
    """The settings of a command that gives out no locations: it doesn't matter how clients would reach a folder's
    bytes.
    """
    os.environ.setdefault("REGISTRY_PUBLIC_URL", "http://127.0.0.1")
    return Settings.from_env()


def database_of(settings: Settings) -> Database:
    """The database of a registry, whatever its schema."""
    return Database(settings.database_url, settings.timeouts, logs_causes=False)


def current_database() -> Database:
    """The database that the environment names. Raises Unavailable unless its schema is this release's."""
    database = database_of(Settings.from_env())
    database.require_current()
    return database
