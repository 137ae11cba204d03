"""Statements are compiled once in a process of tests, not again for each of the hundreds of registries that it opens.

SQLAlchemy keeps compiled statements with an engine, by a key that names the engine's dialect. Here all engines keep
them in one place, and two dialects of the same kind for servers of the same version, with the same options, count as
the same.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

#: How many statements are kept: those of the whole suite on both databases.
_MOST = 4_000


class _OfAllEngines:
    """The attribute in which an engine keeps what it compiled: the same for all."""

    def __init__(self) -> None:
        self._kept: LRUCache[Any, Any] = LRUCache(_MOST)

    def __get__(self, engine: Engine | None, kind: type[Engine]) -> LRUCache[Any, Any]:
        return self._kept

    def __set__(self, engine: Engine, own: object) -> None:
        """Leave the engine's own cache empty, and unused."""


def _are_alike(one: Any, other: object) -> bool:
    return type(one) is type(other) and _traits(one) == _traits(other)


def _traits(dialect: Any) -> tuple[object, ...]:
    """What a compiled statement depends on in its dialect. The version is known once it is connected."""
    return (dialect.server_version_info, dialect.paramstyle, dialect._json_serializer, dialect._json_deserializer)


def _hash(dialect: Any) -> int:
    return hash(type(dialect))


def pytest_configure() -> None:
    """Before any engine is made."""
    Engine._compiled_cache = _OfAllEngines()  # type: ignore[assignment]
    for dialect in (SQLiteDialect_pysqlite, PGDialect_psycopg):
        dialect.__eq__ = _are_alike  # type: ignore[method-assign]
        dialect.__hash__ = _hash  # type: ignore[method-assign]
