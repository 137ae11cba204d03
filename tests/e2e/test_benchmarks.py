"""The benchmarks of `make bench` still fit what they measure: all are read, and those that need no peer and no model run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import processes

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow

_READ = "import importlib, run; [importlib.import_module(suite).run for suite in run.SUITES]"
_COMPARING = "import json, comparing; print(json.dumps(comparing.run(rows=60, rounds=1)))"
_ROWS = """
import json, memory_of_rows
from pathlib import Path
print(json.dumps(list(memory_of_rows._each(Path(__import__('sys').argv[1]), [1], ["submit"]))))
"""


def _python(program: str, *given: str) -> str:
    done = processes.finished(sys.executable, "-c", program, *given, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_every_suite_is_read() -> None:
    _python(_READ)


def test_comparing_a_few_rows() -> None:
    found = json.loads(_python(_COMPARING).splitlines()[-1])
    assert [row["what"].partition(" by ")[2].partition(",")[0] for row in found[:3]] == [
        "the loss",
        "ROUGE-L",
        "the loss",
    ]
    assert all(row.keys() == {"what", "ours", "peer", "ratio", "note"} for row in found)
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in found[:3])


def test_memory_of_a_megabyte_of_rows(tmp_path: Path) -> None:
    (found,) = json.loads(_python(_ROWS, str(tmp_path)).splitlines()[-1])
    assert (found["step"], found["file_mb"]) == ("submit", 1)
    assert found["peak_rss_mb"] >= found["idle_rss_mb"] > 0
