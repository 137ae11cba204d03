"""The next release, pretended: a migration on top of ours, and a copy of our packages with more fields."""

from __future__ import annotations

import shutil
from pathlib import Path

from alembic import command
from alembic.config import Config

from registry.db.database import Database, head_revision, migrations_folder

NEXT = f"{int(head_revision()) + 1:04d}"
_MIGRATION = f'''
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEXT}", "{head_revision()}", None, None


def upgrade() -> None:
    op.add_column("versions", sa.Column("shelf", sa.String(20), nullable=False, server_default="front"))
    op.execute("UPDATE versions SET shelf = 'back' WHERE state = 'archived'")
    op.create_index("ix_versions_shelf", "versions", ["shelf"])


def downgrade() -> None:
    op.drop_index("ix_versions_shelf", "versions")
    op.drop_column("versions", "shelf")
'''
#: By file: what stands there, and what the next release has instead.
_CHANGES = {
    # An option of trainings, which is sent only where somebody sets it.
    "sdk/schemas/training.py": (
        "    method: Annotated[\n",
        '    tempo: Annotated[int, IF_ANY, Option("Beats a minute.")] = 0\n    method: Annotated[\n',
    ),
    # What answers say more.
    "sdk/schemas/jobs.py": ("class JobView(Wire):\n", 'class JobView(Wire):\n    mood: str = "calm"\n'),
    # What workers say more, to a registry that knows it.
    "sdk/schemas/work.py": (
        "class Heartbeat(Wire):\n",
        "class Heartbeat(Wire):\n    pulse: Annotated[int, Field(exclude_if=lambda value: value == 0)] = 0\n",
    ),
}


def next_migrations(folder: Path) -> Path:
    """Copy our migrations to below `folder`, with one more."""
    copy = folder / "migrations"
    shutil.copytree(migrations_folder(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "versions" / f"{NEXT}_next.py").write_text(_MIGRATION)
    return copy


def move_to(db: Database, revision: str, migrations: Path) -> None:
    """Bring a database up to the next release's schema, or down to ours."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["engine"] = db.engine
    (command.upgrade if revision == NEXT else command.downgrade)(config, revision)


def next_packages(folder: Path) -> Path:
    """Copy our packages to below `folder` and give them what the next release has more; return where they are."""
    source, copy = migrations_folder().parent, folder / "next"
    for package in ("adapterctl", "adapterctl_entry", "sdk", "registry", "workers", "migrations"):
        shutil.copytree(source / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (was, now) in _CHANGES.items():
        text = (copy / name).read_text()
        assert text.count(was) == 1, name
        (copy / name).write_text(text.replace(was, now))
    return copy
