"""The newest score of each version on each dataset, and the last one of each adapter, for lists."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

#: How many evaluations are read at once.
_BATCH = 500
#: As lists show them in the release of this migration.
_MOST_METRICS = 20
_MAIN = ("accuracy", "acc_norm", "acc", "preference_accuracy", "loss")
_MEASURE = re.compile(r"(.+_)?(rows|tokens|parameters|modules|steps|bytes|s)|probe_.+")


def upgrade() -> None:
    """Make both tables, and fill them from the scores that there are; intervals of these are not known."""
    latest = op.create_table(
        "latest_scores",
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("metric", sa.String(100), nullable=False),
        sa.Column("is_main", sa.Boolean, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("evaluation_id", sa.String(32), nullable=False),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name="fk_latest_scores_evaluation_id_evaluations"
        ),
        sa.PrimaryKeyConstraint("namespace", "digest", "dataset_digest", "metric", name="pk_latest_scores"),
    )
    op.create_table(
        "adapter_scores",
        sa.Column("adapter_pk", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer),
        sa.Column("dataset_digest", sa.String(64)),
        sa.Column("metric", sa.String(100)),
        sa.Column("value", sa.Float),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("evaluation_id", sa.String(32)),
        sa.Column("scored_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_adapter_scores_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("adapter_pk", name="pk_adapter_scores"),
    )
    _fill(latest)
    # Of each adapter the main score that a ready version got last.
    op.execute(
        "INSERT INTO adapter_scores"
        " (adapter_pk, number, dataset_digest, metric, value, evaluation_id, scored_at)"
        " SELECT adapter_pk, number, dataset_digest, metric, value, evaluation_id, scored_at FROM ("
        " SELECT v.adapter_pk, v.number, l.dataset_digest, l.metric, l.value, l.evaluation_id, l.scored_at,"
        " row_number() OVER (PARTITION BY v.adapter_pk"
        " ORDER BY l.scored_at DESC, l.evaluation_id DESC, v.number DESC) AS place"
        " FROM versions v JOIN adapters a ON a.pk = v.adapter_pk"
        " JOIN latest_scores l ON l.namespace = a.namespace AND l.digest = v.digest AND l.is_main"
        " WHERE v.state = 'ready') newest WHERE place = 1"
    )


def downgrade() -> None:
    """Remove them: evaluations hold the same."""
    op.drop_table("adapter_scores")
    op.drop_table("latest_scores")


def _fill(latest: sa.Table) -> None:
    """Write the scores of versions, batch by batch in the order of their keys: of two, the newer one is kept."""
    connection = op.get_bind()
    scores = sa.table(
        "evaluations",
        *(sa.column(name, sa.String()) for name in ("id", "namespace", "digest", "dataset_digest")),
        sa.column("spec", sa.JSON()),
        sa.column("metrics", sa.JSON()),
        sa.column("created_at", sa.DateTime(timezone=True)),
    )
    columns = scores.c
    query = sa.select(scores).where(columns.digest.is_not(None)).order_by(columns.id).limit(_BATCH)
    seen = ""
    while True:
        batch = connection.execute(query.where(columns.id > seen)).all()
        if not batch:
            return
        newest: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in sorted(batch, key=lambda row: row.created_at):
            for score in _scores(row):
                newest[tuple(score[name] for name in ("namespace", "digest", "dataset_digest", "metric"))] = score
        if newest:
            _write(connection, latest, list(newest.values()))
        seen = batch[-1].id


def _write(connection: sa.Connection, latest: sa.Table, rows: list[dict[str, Any]]) -> None:
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert(latest) if connection.dialect.name == "postgresql" else sqlite.insert(latest)
    changed = {name: insert.excluded[name] for name in ("is_main", "value", "evaluation_id", "scored_at")}
    key = ["namespace", "digest", "dataset_digest", "metric"]
    is_newer = latest.c.scored_at <= insert.excluded.scored_at
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changed, where=is_newer), rows)


def _scores(row: Any) -> list[dict[str, Any]]:
    metrics, spec = _table(row.metrics), _table(row.spec)
    there = sorted(name for name, value in metrics.items() if _is_score(name) and isinstance(value, int | float))
    asked = [*(spec.get("metrics") or ()), *(f"scorer.{name}" for name in spec.get("scorers") or ())]
    wanted = [*(name for one in asked for name in there if name == one or name.startswith(f"{one}.")), *_MAIN, *there]
    main = next((name for name in wanted if name in there), None)
    names = [] if main is None else [main, *(name for name in there if name != main)][:_MOST_METRICS]
    of = {name: getattr(row, name) for name in ("namespace", "digest", "dataset_digest")}
    return [
        {
            **of,
            "metric": name[:100],
            "is_main": name == main,
            "value": float(metrics[name]),
            "evaluation_id": row.id,
            "scored_at": row.created_at,
        }
        for name in names
    ]


def _is_score(name: str) -> bool:
    if name.startswith("scorer."):
        return not name.endswith("_rows")
    return name in ("acc_bytes",) or _MEASURE.fullmatch(name) is None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
