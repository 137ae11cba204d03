"""What stopping early saves and costs on grids of 16 real trainings each, which `benchmarks.once.sweep_curves` recorded."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from statistics import median

import pytest
from support.recorded_grids import MARGIN, Curve, Replay, Rule, replay, row_passes

from registry.sweeps.deciding.stopping import HALVING_RUNGS, MEDIAN_RUNGS, halving_goes_on, median_goes_on

ORDERS = 40


@pytest.fixture(scope="module")
def grids() -> dict[str, list[Curve]]:
    path = Path(__file__).parents[4] / "assets" / "sweeps.json.gz"
    found: dict[str, list[Curve]] = json.loads(gzip.decompress(path.read_bytes()))
    return found


@pytest.mark.parametrize(
    ("rungs", "rule", "most"), [(HALVING_RUNGS, halving_goes_on, 0.53), (MEDIAN_RUNGS, median_goes_on, 0.75)]
)
def test_a_winner_is_as_good_as_the_grids_best_for_fewer_row_passes(
    grids: dict[str, list[Curve]], rungs: tuple[float, ...], rule: Rule, most: float
) -> None:
    runs: list[Replay] = [
        replay(curves, rungs, rule, random.Random(f"{name} {order}"))
        for name, curves in grids.items()
        for order in range(ORDERS)
    ]
    assert all(len(curves) == 16 for curves in grids.values())
    assert len(grids) >= 6
    assert median(run.share for run in runs) <= most
    assert sum(run.regret <= MARGIN for run in runs) >= 0.88 * len(runs)


def test_looks_of_a_member_are_those_that_are_due_and_those_of_its_rungs() -> None:
    # 60 steps of 8 rows; 48 held-out rows are looked at before the first step, after 15, 30 and 45, and at the end.
    assert row_passes(1.0, ()) == 480 + 5 * 48
    assert row_passes(1.0, HALVING_RUNGS) == 480 + 7 * 48
    assert row_passes(0.1, HALVING_RUNGS) == 48 + 2 * 48
