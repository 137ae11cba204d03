"""Fixtures of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.jobs.conftest import crew as crew
from contract.jobs.helpers import Crew
from contract.sweeps.helpers import Desk


@pytest.fixture
def desk(crew: Crew, tmp_path: Path) -> Desk:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(f'{{"prompt": "{number}", "completion": "c"}}\n' for number in range(40)))
    return Desk(crew, crew.writer.datasets.add(held_out, namespace=crew.space).digest)
