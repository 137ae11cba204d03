"""Fixtures of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.jobs.conftest import crew as crew
from contract.jobs.helpers import Crew
from contract.sweeps.helpers import Desk, held_out_rows


@pytest.fixture
def desk(crew: Crew, tmp_path: Path) -> Desk:
    return Desk(crew, crew.writer.datasets.add(held_out_rows(tmp_path), namespace=crew.space).digest)
