"""Datasets through the real `adapterctl`: what is printed where they are added, named, listed, pulled and removed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import processes

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """A registry in a folder, and rows beside it."""

    folder: Path
    env: dict[str, str]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `adapterctl data` in the folder."""
        return processes.run("adapterctl", "data", *args, env=self.env, cwd=self.folder, timeout_s=60)

    def printed(self, *args: str) -> str:
        """Run it and return what it prints."""
        done = self.run(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    env = processes.environment(
        ADAPTERCTL_URL=f"local:{tmp_path / 'home'}", ADAPTERCTL_CACHE=str(tmp_path / "cache"), HOME=str(tmp_path)
    )
    (tmp_path / "rows.csv").write_text("question,answer,id\nWhy?,So.,7\n")
    (tmp_path / "more.jsonl").write_text('{"question": "How?", "answer": "Thus."}\n')
    return Place(tmp_path, env)


def test_rows_are_named_pulled_and_removed(place: Place) -> None:
    refused = place.run("add", "rows.csv", "--format", "json")
    assert (refused.returncode, "--columns prompt=question,completion=answer" in refused.stderr) == (2, True)
    mapped = ("--columns", "prompt=question,completion=answer", "--name", "faq")
    added = place.run("add", "rows.csv", *mapped)
    digest = hashlib.sha256((place.folder / "rows.csv").read_bytes()).hexdigest()
    assert added.stdout.strip() == digest
    assert "faq@v1: 1 rows of prompt-completion" in added.stderr
    second = place.printed("add", "more.jsonl", *mapped, "--format", "quiet")
    listed = place.printed("list").splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [[second[:12], "faq@v2"], [digest[:12], "faq@v1"]]
    assert place.printed("pull", "faq@v1", "-o", "back.csv") == "back.csv"
    assert (place.folder / "back.csv").read_bytes() == (place.folder / "rows.csv").read_bytes()
    again = place.run("pull", "faq", "-o", "back.csv", "--format", "json")
    assert (again.returncode, json.loads(again.stderr)["error"]["code"]) == (4, "conflict")
    told = json.loads(place.printed("pull", "faq", "-o", "back.csv", "--overwrite", "--format", "json"))
    assert told == {"data": "faq@v2", "digest": second, "path": "back.csv"}
    assert (place.folder / "back.csv").read_bytes() == (place.folder / "more.jsonl").read_bytes()
    place.printed("rm", "faq@v2")
    gone = place.run("pull", second[:12], "-o", "gone.jsonl")
    assert (gone.returncode, (place.folder / "gone.jsonl").exists()) == (3, False)
    assert json.loads(place.printed("list", "--format", "json"))[0]["names"] == ["faq@v1"]
