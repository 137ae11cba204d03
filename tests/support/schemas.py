"""Databases of past releases: kept as small SQLite files, carried over to PostgreSQL, moved between revisions."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, Table, create_engine, inspect, select, text

from registry.db.database import Database, migrations_folder
from support.small_registry import made_now

ASSETS = Path(__file__).resolve().parent.parent / "assets"

Rows = dict[str, list[dict[str, Any]]]


def config_for(db: Database) -> Config:
    """What Alembic's commands want to know."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["engine"] = db.engine
    return config


def upgrade_to(db: Database, revision: str) -> None:
    """Upgrade a database to a revision, which need not be the newest."""
    command.upgrade(config_for(db), revision)


def downgrade(db: Database, revision: str) -> None:
    """Downgrade a database to a revision, or to "base": nothing."""
    command.downgrade(config_for(db), revision)


def revisions() -> list[str]:
    """Every revision, the oldest first."""
    return sorted(path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py"))


def kept_revisions() -> list[str]:
    """The revisions for which a registry is kept, oldest first: those of releases."""
    return sorted(path.stem.removeprefix("schema_") for path in ASSETS.glob("schema_*.sqlite3"))


#: What `load_past` takes, too: the registry that this checkout makes.
NOW = "now"


def load_past(db: Database, revision: str = NOW) -> None:
    """Put the kept registry of a past revision, or the one that is made now, into an empty database of either kind."""
    body = made_now() if revision == NOW else (ASSETS / f"schema_{revision}.sqlite3").read_bytes()
    if db.engine.dialect.name == "sqlite":
        Path(db.engine.url.database).write_bytes(body)
        return
    upgrade_to(db, "head" if revision == NOW else revision)
    with tempfile.NamedTemporaryFile(suffix=".sqlite3") as source:
        source.write(body)
        source.flush()
        _copy_rows(Path(source.name), db)


def rows_of(db: Database) -> Rows:
    """Every row of every table, as values that are the same on both kinds of database."""
    metadata = MetaData()
    metadata.reflect(db.engine)
    with db.engine.connect() as connection:
        found = {
            table.name: [_plain(row._asdict()) for row in connection.execute(select(table))]
            for table in metadata.sorted_tables
        }
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def shape_of(db: Database) -> dict[str, Any]:
    """Tables with the names, types and nullability of columns, and their constraints; no order, no defaults."""
    inspector = inspect(db.engine)
    return {
        table: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)
            },
            "key": inspector.get_pk_constraint(table)["constrained_columns"],
            "indexes": {
                (index["name"], tuple(index["column_names"]), bool(index["unique"]))
                for index in inspector.get_indexes(table)
            },
            "foreign": {
                (tuple(key["constrained_columns"]), key["referred_table"]) for key in inspector.get_foreign_keys(table)
            },
            "unique": {tuple(rule["column_names"]) for rule in inspector.get_unique_constraints(table)},
        }
        for table in inspector.get_table_names()
    }


def triggers_of(db: Database) -> list[str]:
    """The triggers, and on PostgreSQL the functions, that somebody made in a database."""
    if db.engine.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = (
            "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal "
            "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
    with db.engine.connect() as connection:
        return sorted(connection.execute(text(query)).scalars())


def _copy_rows(source: Path, db: Database) -> None:
    """Copy the rows of an SQLite file into the same tables elsewhere, parents first, keys as they are."""
    metadata, kept = MetaData(), create_engine(f"sqlite:///file:{source}?mode=ro&uri=true")
    metadata.reflect(db.engine)
    with kept.connect() as origin, db.engine.begin() as target:
        for table in metadata.sorted_tables:
            if table.name == "alembic_version":
                continue
            rows = [
                {key: _in_utc(value) for key, value in row._asdict().items()}
                for row in origin.execute(select(Table(table.name, MetaData(), autoload_with=kept)))
            ]
            if rows:
                target.execute(table.insert(), rows)
            for column in table.primary_key:
                # Rows that came with their keys have not advanced the sequence.
                sequence = target.execute(
                    text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
                ).scalar()
                highest = max((row[column.name] for row in rows), default=0) if sequence else 0
                if highest:
                    target.execute(text("SELECT setval(:sequence, :value)"), {"sequence": sequence, "value": highest})
    kept.dispose()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: _in_utc(row[key]) for key in sorted(row)}


def _in_utc(value: Any) -> Any:
    """SQLite forgets zones; what it returns is UTC."""
    if not isinstance(value, datetime):
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
