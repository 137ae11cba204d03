"""Alembic's entry: runs migrations on the engine that `registry.db.database` hands over. No live model is imported."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine, text

from registry.db.statements import allow, begin
from registry.deadlines import Timeouts

_LOCK = 0x6164617074657263  # "adapterc": of two servers that start at once, only one migrates.


def run(engine: Engine) -> None:
    """Migrate in one transaction, while nobody else migrates."""
    with engine.connect() as connection, connection.begin():
        begin(connection, to_write=True)
        allow(connection, context.config.attributes.get("within_s", Timeouts.migration_s))
        if connection.dialect.name == "postgresql":
            lock_s = context.config.attributes.get("lock_timeout_s", Timeouts.migration_lock_s)
            connection.execute(text(f"SET LOCAL lock_timeout = {round(lock_s * 1000)}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.configure(
            connection=connection,
            target_metadata=context.config.attributes.get("metadata"),
            render_as_batch=connection.dialect.name == "sqlite",
            compare_type=True,
        )
        context.run_migrations()


run(context.config.attributes["engine"])
