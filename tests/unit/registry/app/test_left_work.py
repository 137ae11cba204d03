"""What makes a command over a folder import the rooms that do what is left to do: only what asks for it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from registry.app.embedded import open_embedded
from registry.app.left_work import left_work

ADDED = text(
    """INSERT INTO promotion_policies
    (scope, alias, version, namespace, document, digest, loosened, loosens, created_by, created_at, record_bytes)
    VALUES ('summaries', 'production', 1, '-', :document, 'd', '[]', 0, 'local', '2026-12-01 05:07:05', 1)"""
)


@pytest.mark.parametrize(
    ("document", "left"),
    [
        ('{"alias": "production", "require": [], "approvals": 0}', False),
        ('{"alias": "production", "require": [], "promote": null, "evaluate": null}', False),
        ('{"alias": "production", "require": [], "promote": "automatic", "cap": 3}', True),
        ('{"alias": "production", "require": [], "evaluate": "automatic"}', True),
    ],
)
def test_a_policy_leaves_work_only_if_it_acts_by_itself(document: str, left: bool, tmp_path: Path) -> None:
    services: Any = open_embedded(tmp_path).state.services
    with closing(services.db):
        assert not left_work(services.db).jobs
        with services.db.write() as session:
            session.execute(ADDED, {"document": document})
        assert left_work(services.db).jobs is left
