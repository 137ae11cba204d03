"""A row for each family through the real `adapterctl`: trained, published, scored, merged, pulled, and read by plain PEFT.

In every run one that is least like the Llama of `tests/e2e/test_whole_path.py`, and all in `make matrix`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from matrix import table
from support.command_line import CommandLine
from support.families import FAMILIES, Case, Truth, save_base, save_rows
from support.soak import MATRIX

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TRAINING = [
    "--max-steps",
    "3",
    "--batch-size",
    "3",
    "--grad-accum",
    "1",
    "--lr",
    "2e-2",
    "--rank",
    "4",
    "--dropout",
    "0",
]


#: Stacked experts have no module of their own, and are named.
EXPERTS = ("Qwen3-MoE", "q_proj,experts.down_proj")


@pytest.mark.parametrize(
    ("family", "targets"),
    [*((family, "attention") for family in (FAMILIES if MATRIX else ())), EXPERTS],
)
def test_a_family_through_the_command_line(family: str, targets: str, tmp_path: Path) -> None:
    case = Case(family, "lora", targets, "float32", 4)
    base, rows, home = save_base(tmp_path, case), save_rows(tmp_path / "rows.jsonl"), CommandLine(tmp_path)
    ref = home.json(
        *("train", "counter", "--base", str(base), "--data", str(rows), "--method", case.method),
        *("--targets", case.targets, *TRAINING),
    )["ref"]
    (scored,) = home.json("eval", ref, "--only", "--data", str(rows), "--generate-rows", "0")
    home.json("merge", ref, "--onto", "original", "-o", str(tmp_path / "merged"))
    home.json("pull", ref, "-o", str(tmp_path / "pulled"))
    truth = Truth(base, tmp_path / "pulled", rows)
    assert abs(truth.loss - truth.loss_bare) > 1e-3
    assert scored["metrics"]["loss"] == pytest.approx(truth.loss, rel=1e-4)
    assert truth.distance(tmp_path / "merged") < 1e-4
    if MATRIX and targets == "attention":
        table.keep_walked(family)
