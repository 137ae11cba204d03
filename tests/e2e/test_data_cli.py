"""Datasets through the real `adapterctl`: what is printed where they are added, named, listed, pulled and removed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from support import child_forks, processes, tiny, torch_forks
from support.command_line import CommandLine

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> CommandLine:
    (tmp_path / "rows.csv").write_text("question,answer,id\nWhy?,So.,7\n")
    (tmp_path / "more.jsonl").write_text('{"question": "How?", "answer": "Thus."}\n')
    return CommandLine(tmp_path, cwd=tmp_path)


def test_rows_are_named_pulled_and_removed(place: CommandLine) -> None:
    refused = place.run("data", "add", "rows.csv", "--format", "json")
    assert (refused.returncode, "--columns prompt=question,completion=answer" in refused.stderr) == (2, True)
    mapped = ("--columns", "prompt=question,completion=answer", "--name", "faq")
    added = place.run("data", "add", "rows.csv", *mapped)
    digest = hashlib.sha256((place.folder / "rows.csv").read_bytes()).hexdigest()
    assert added.stdout.strip() == digest
    assert "faq@v1: 1 rows of prompt-completion" in added.stderr
    second = place.ok("data", "add", "more.jsonl", *mapped, "--format", "quiet")
    listed = place.ok("data", "list").splitlines()
    assert [line.split("\t")[:2] for line in listed[1:]] == [["faq@v2", second], ["faq@v1", digest]]
    drawn = place.ok("data", "list", "--format", "table").splitlines()
    assert [line.split()[0] for line in drawn[1:]] == ["faq@v2", "faq@v1"]
    assert place.ok("data", "pull", "faq@v1", "-o", "back.csv") == "back.csv"
    assert (place.folder / "back.csv").read_bytes() == (place.folder / "rows.csv").read_bytes()
    again = place.run("data", "pull", "faq", "-o", "back.csv", "--format", "json")
    assert (again.returncode, json.loads(again.stderr)["error"]["code"]) == (4, "conflict")
    told = json.loads(place.ok("data", "pull", "faq", "-o", "back.csv", "--overwrite", "--format", "json"))
    assert told == {"data": "faq@v2", "digest": second, "path": "back.csv"}
    assert (place.folder / "back.csv").read_bytes() == (place.folder / "more.jsonl").read_bytes()
    place.ok("data", "rm", "faq@v2", "--yes")
    gone = place.run("data", "pull", second[:12], "-o", "gone.jsonl")
    assert (gone.returncode, (place.folder / "gone.jsonl").exists()) == (3, False)
    assert json.loads(place.ok("data", "list", "--format", "json"))[0]["names"] == ["faq@v1"]


def test_a_named_dataset_is_trained_on_by_its_columns(place: CommandLine) -> None:
    place.env |= torch_forks.for_commands()
    tiny.save_llama(place.folder / "tiny")
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}.", "id": n} for n in range(4)]
    (place.folder / "faq.json").write_text(json.dumps(rows, indent=1))

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return processes.run("adapterctl", *args, env=place.env, cwd=place.folder, timeout_s=240)

    spec = ("--method", "lora", "--rank", "2", "--max-steps", "1", "--max-length", "32", "--lr", "0.01")
    with child_forks.local_runner(place.folder / "home", place.env):
        place.ok("data", "add", "faq.json", "--name", "faq", "--columns", "prompt=question,completion=answer")
        done = run("train", "support", "--base", "./tiny", "--data", "faq", "--eval-data", "faq@v1", *spec)
    assert done.returncode == 0, done.stderr
    warning = "4 of the held-out rows are training rows too, so their loss says too little"
    assert f"warning: {warning}" in done.stderr
    shown = run("show", "support")
    assert [line.split(maxsplit=1)[1] for line in shown.stdout.splitlines() if line.startswith("warning")] == [warning]
    version = json.loads(run("show", "support", "--format", "json").stdout)
    columns = "prompt=question,completion=answer"
    assert (version["training"]["columns"], version["dataset"]["rendering"]["columns"]) == (columns, columns)
    request = json.loads(run("jobs", "show", version["job"]["id"], "--format", "json").stdout)["request"]
    digest = hashlib.sha256((place.folder / "faq.json").read_bytes()).hexdigest()
    assert (request["data"], request["data_name"], request["eval_data_name"]) == (digest, "faq@v1", "faq@v1")
    # Read by the same columns, long after.
    preview = run("data", "preview", "--of", "support@v1", "--row", "3", "--format", "json")
    assert json.loads(preview.stdout)["rows"][0]["supervised_text"].startswith("It is 2.")
