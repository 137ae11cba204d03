"""Families × methods × targets × dtypes × files: pairwise in every run, all of them in `make matrix`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.families import Case, pairwise, uncovered, walk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_every_pair_of_values_is_met() -> None:
    assert list(uncovered(pairwise())) == []


@pytest.mark.parametrize("case", pairwise(), ids=str)
def test_what_is_trained_is_what_plain_peft_loads_and_what_is_merged(case: Case, tmp_path: Path) -> None:
    walk(case, tmp_path)
