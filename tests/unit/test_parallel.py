"""Tests that run at once: whole files and whole stacks to one process, and a red one fails the run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import processes
from support.parallel import _FIRST, rank_of, share_of

ROOT = Path(__file__).resolve().parents[2]

#: Four files in two folders; each test notes who ran it.
_NOTES = """
import os, pathlib, pytest
@pytest.mark.parametrize("n", range(4))
def test_notes(n):
    with pathlib.Path(os.environ["NOTES"], os.environ["PYTEST_XDIST_WORKER"]).open("a") as file:
        file.write(f"{FOLDER}/{NAME} {n}\\n")
    # Whoever has less to do would take over some of this file, were it not kept together.
    assert os.environ["RED"] != NAME
"""


@pytest.mark.slow
def test_a_file_and_a_folder_with_one_stack_are_run_by_one_process_and_a_red_one_fails_the_run(tmp_path: Path) -> None:
    for place in ("tests/faults/jobs", "tests/unit"):
        (tmp_path / place).mkdir(parents=True)
        for name in "abc":
            text = f"FOLDER, NAME = {place!r}, {name!r}\n{_NOTES}"
            (tmp_path / place / f"test_{place.replace('/', '_')}_{name}.py").write_text(text)
    (notes := tmp_path / "notes").mkdir()
    # Other plugins take seconds to load.
    env = processes.environment(
        NOTES=str(notes), PYTHONPATH=str(ROOT / "tests"), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", RED="b"
    )
    command = ["pytest", "-q", "-n", "3", "-p", "xdist", "-p", "support.parallel", "tests"]
    done = processes.finished(sys.executable, "-m", *command, cwd=tmp_path, env=env, timeout_s=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "8 failed, 16 passed" in done.stdout
    ran = {file.name: file.read_text().splitlines() for file in notes.iterdir()}
    owners: dict[str, set[str]] = {}
    for process, lines in ran.items():
        for line in lines:
            place = line.split()[0]
            share = "stack" if place.startswith("tests/faults/jobs") else place
            owners.setdefault(share, set()).add(process)
        assert [line.split()[1] for line in lines] == ["0", "1", "2", "3"] * (len(lines) // 4)
    assert len(owners) == 4
    assert all(len(one) == 1 for one in owners.values()), owners
    assert len(ran) == 3


@pytest.mark.parametrize(
    ("nodeid", "share"),
    [
        ("tests/unit/sdk/formats/test_refs.py::TestName::test_it[a::b/c]", "tests/unit/sdk/formats/test_refs.py"),
        ("tests/faults/jobs/test_kills.py::test_it", "tests/faults/jobs/"),
        ("tests/faults/test_fuzz.py::test_it[a]", "tests/faults/test_stops.py"),
        ("tests/faults/test_kills.py::test_it", "tests/faults/test_kills.py"),
    ],
)
def test_where_a_test_belongs(nodeid: str, share: str) -> None:
    assert share_of(nodeid) == share


def test_what_takes_longest_begins_first() -> None:
    ranks = [
        rank_of(f"tests/{file}::test_it")
        for file in (
            "e2e/test_readme.py",
            "contract/removal/test_blobs.py",
            "e2e/test_docs.py",
            "contract/test_audit.py",
            "unit/test_docs.py",
        )
    ]
    assert ranks == sorted(set(ranks))
    assert rank_of("tests/faults_of_another_kind.py::test_it") == ranks[-1]


def test_what_begins_first_is_there() -> None:
    assert [path for path in _FIRST if not (ROOT / path).exists()] == []
