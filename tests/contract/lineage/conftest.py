"""Fixtures of these tests. The lineage of real publishes, jobs, merges and evaluations: in process over SQLite, and
over HTTP and PostgreSQL.
"""

from __future__ import annotations

import pytest
from contract.lineage.helpers import Maker, Story, tell
from support.registries import World


@pytest.fixture(scope="module")
def maker(world: World, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(world, tmp_path_factory.mktemp("things"))


@pytest.fixture(scope="module")
def story(world: World, maker: Maker) -> Story:
    return tell(world, maker, "")
