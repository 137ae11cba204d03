"""All tables together, and whether the database has them as the code expects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData

import registry.access.keys
import registry.access.models
import registry.artifacts.models
import registry.catalog.models
import registry.datasets.models
import registry.db.counters
import registry.evaluations.models
import registry.jobs.models
import registry.monitoring.models
import registry.promotion.models
import registry.removal.models
import registry.series.models
import registry.signatures.models
import registry.sweeps.models
import registry.usage.models
import registry.web.sessions.models  # noqa: F401 - for its tables
from registry.db.database import Database
from registry.db.statements import allow
from registry.db.types import Model

METADATA: MetaData = Model.metadata
#: How long PostgreSQL may take to describe its tables, in seconds.
_WITHIN_S = 60.0


def drift(db: Database) -> list[Any]:
    """Return what differs between the database and the models; empty if the migrations are complete."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with db.engine.connect() as connection:
        allow(connection, _WITHIN_S)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))
