"""Statements are compiled once in a process of tests, and not once more for each of the hundreds of registries that it opens.

SQLAlchemy keeps what it compiled with an engine, by a key that names the engine's dialect. Here all engines keep it in one
place, and two dialects of one kind that speak to servers of one version, in the same way, are the same.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

#: So many statements: those of the whole suite on both databases.
_MOST = 4_000


class _OfAllEngines:
    """The attribute of an engine in which it keeps what it compiled: one for all."""

    def __init__(self) -> None:
        self._kept: LRUCache[Any, Any] = LRUCache(_MOST)

    def __get__(self, engine: Engine | None, kind: type[Engine]) -> LRUCache[Any, Any]:
        return self._kept

    def __set__(self, engine: Engine, own: object) -> None:
        """Leave the engine's own cache empty, and unused."""


def _are_alike(one: Any, other: object) -> bool:
    return type(one) is type(other) and _traits(one) == _traits(other)


def _traits(dialect: Any) -> tuple[object, ...]:
    """What a compiled statement has of its dialect. The version is known once that is connected."""
    return (dialect.server_version_info, dialect.paramstyle, dialect._json_serializer, dialect._json_deserializer)


def _hash(dialect: Any) -> int:
    return hash(type(dialect))


def pytest_configure() -> None:
    """Before any engine is made."""
    Engine._compiled_cache = _OfAllEngines()  # type: ignore[assignment]
    for dialect in (SQLiteDialect_pysqlite, PGDialect_psycopg):
        dialect.__eq__ = _are_alike  # type: ignore[method-assign]
        dialect.__hash__ = _hash  # type: ignore[method-assign]
