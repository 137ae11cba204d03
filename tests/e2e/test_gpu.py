"""What only a card can show, by the script that measures it: over tiny bases, or in full by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import processes

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.gpu]


def test_a_training_its_peak_a_kill_an_evaluation_and_a_merge_on_a_card(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    out = tmp_path / "found.json"
    script = [sys.executable, ROOT / "benchmarks" / "once" / "gpu.py", out, "--tiny"]
    done = processes.finished(*[str(each) for each in script])
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["machine"]["card"]["name"]
    assert found["resume"]["resumed_from_step"] >= 2
    scores = found["evaluate_and_merge"]
    assert abs(scores["merged"]["loss"] - scores["adapter"]["loss"]) < 0.05
