"""Taking away through the real `adapterctl` and `adapter-registry`: what they print, ask and refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes
from support.adapters import base_registration, save_adapter
from support.command_line import CommandLine

from sdk.client import Client

pytestmark = pytest.mark.slow


class Home(CommandLine):
    """An embedded registry in a folder, with versions of `a`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.client = Client(self.url, cache=folder / "cache")
        self.client.bases.register(base_registration())

    def push(self, count: int) -> None:
        for seed in range(count):
            self.client.push(save_adapter(self.folder / f"adapter-{seed}", seed + 1), "a", base="tiny")

    def stored(self) -> int:
        return sum(path.is_file() for path in (self.folder / "home" / "artifacts").rglob("*"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.client.close()


def test_versions_are_archived_restored_annotated_and_deleted(home: Home) -> None:
    home.push(2)
    archived = home.run("archive", "a@v2", "--reason", "worse")
    assert (archived.returncode, archived.stdout) == (0, "a@v2\n")
    assert "adapterctl restore a@v2" in archived.stderr
    assert home.json("restore", "a@v2")["state"] == "ready"

    annotated = home.json(
        "annotate", "a@v2", "--tag", "language=python", "--tag", "team=x=y", "--note", "good", "--description", "d"
    )
    assert annotated["tags"] == {"language": "python", "team": "x=y"}
    assert home.json("annotate", "a@v2", "--untag", "team")["tags"] == {"language": "python"}
    for wrong, said in ((["--tag", "language"], "key=value"), ([], "nothing to write")):
        refused = home.run("annotate", "a@v2", *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert said in refused.stderr

    for verb in ("delete", "archive"):
        bare = home.run(verb, "a", "--reason", "which?")
        assert (bare.returncode, bare.stdout) == (2, "")
        assert f"such as a@v3, or all of them with: adapterctl {verb} a --all-versions" in bare.stderr
    silent = home.run("delete", "a@latest")
    assert (silent.returncode, silent.stdout) == (2, "")
    assert "--yes" in silent.stderr
    status, out, shown = home.at_a_terminal("delete", "a@latest", asks="[y/N]", typed="n", piped=True)
    assert (status, out) == (130, "")
    assert "delete a@v2 for good?" in shown
    status, out, _ = home.at_a_terminal("delete", "a@latest", asks="[y/N]", typed="y", piped=True)
    assert (status, out) == (0, "a@v2\n")
    gone = home.run("show", "a@v2")
    assert gone.returncode == 3
    assert "a@v2 was deleted" in gone.stderr
    home.client.set_alias("a", "production", 1)
    held = home.run("delete", "a@v1", "--yes")
    assert held.returncode == 4
    assert "production" in held.stderr
    assert home.run("release", "a@v1").returncode == 4


def test_retention_is_set_shown_and_cleared(home: Home) -> None:
    home.push(1)
    assert home.json("retention", "set", "a", "--keep-last", "3", "--keep-days", "90") == {
        "adapter": "a",
        "rule": {"keep_last": 3, "keep_days": 90},
    }
    assert "90" in home.run("retention", "show", "a").stdout
    assert home.json("retention", "clear", "a")["rule"] is None
    assert "all versions" in home.run("retention", "show", "a").stdout
    empty = home.run("retention", "set", "a")
    assert empty.returncode == 2
    assert "--keep-last" in empty.stderr


def test_garbage_is_shown_asked_about_and_collected(home: Home) -> None:
    home.push(3)
    home.client.retention.set("a", keep_last=1)
    stored = home.stored()
    planned = home.json("gc", "--dry-run", "--grace-hours", "0")
    assert (planned["dry_run"], planned["retired_versions"], planned["blobs"]) == (True, ["a@v1", "a@v2"], 2)
    assert "would free" in home.run("gc", "--dry-run", "--grace-hours", "0").stdout

    silent = home.run("gc", "--grace-hours", "0")
    assert (silent.returncode, silent.stdout) == (2, "")
    assert "--yes" in silent.stderr
    status, out, shown = home.at_a_terminal("gc", "--grace-hours", "0", asks="[y/N]", typed="n", piped=True)
    assert (status, out) == (130, "")
    assert "a@v1, a@v2" in shown
    assert home.stored() == stored
    status, out, shown = home.at_a_terminal(
        "gc", "--grace-hours", "0", "--format", "json", asks="[y/N]", typed="y", piped=True
    )
    assert status == 0, shown
    assert json.loads(out) == {**planned, "dry_run": False}
    assert home.stored() == stored - 2

    (lost,) = {file.sha256 for file in home.client.get("a@v3").info.files if file.path.endswith("safetensors")}
    next((home.folder / "home" / "artifacts").rglob(f"{lost}*")).unlink()
    told = home.run("gc", "--yes")
    assert told.returncode == 0
    assert "files missing in storage: 1, of a@v3; restore them from a backup" in told.stderr


def test_rows_of_a_dataset_are_given_up(home: Home) -> None:
    rows = home.folder / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    home.client.datasets.add(rows)
    assert home.json("data", "rm", "rows.jsonl", "--yes") == {"data": "rows.jsonl", "removed": True}
    assert home.json("data", "list") == []
    again = home.run("data", "rm", "rows.jsonl", "--yes")
    assert again.returncode == 3
    assert "adapterctl data add" in again.stderr


def test_the_server_collects_by_itself(home: Home) -> None:
    home.push(1)
    home.client.versions.delete("a@v1")
    env = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{home.folder / 'home' / 'registry.sqlite3'}",
        REGISTRY_STORAGE_URL=(home.folder / "home" / "artifacts").as_uri(),
    )
    reports = []
    for more in (["--dry-run"], []):
        done = processes.run("adapter-registry", "gc", "--grace-hours", "0", *more, env=env)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    assert reports == [{**reports[1], "dry_run": True}, {**reports[1], "dry_run": False}]
    assert reports[1]["blobs"] == 2
    assert home.client.audit(action="gc.run")[0].actor == "registry"


def test_all_versions_go_when_nothing_needs_them_and_their_name_is_typed(home: Home) -> None:
    home.push(2)
    home.client.set_alias("a", "production", version=1)
    needed = home.run("delete", "a", "--all-versions", "--yes")
    assert (needed.returncode, needed.stdout) == (4, "")
    assert (
        "a@production names one of these versions; remove it first with: adapterctl alias rm a production"
        in needed.stderr
    )
    home.client.aliases.remove("a", "production")
    wrong = home.run("delete", "a@v1", "--all-versions", "--yes")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    status, out, shown = home.at_a_terminal(
        "delete", "a", "--all-versions", asks="type the name a", typed="b", piped=True
    )
    assert (status, out) == (2, "")
    assert "that is not a; nothing was done" in shown
    assert [version.ref for version in home.client.versions("a")] == ["a@v2", "a@v1"]
    assert home.run("archive", "a", "--all-versions").stdout == "a@v1\na@v2\n"
    status, out, _ = home.at_a_terminal("delete", "a", "--all-versions", asks="type the name a", typed="a", piped=True)
    assert (status, out) == (0, "a@v1\na@v2\n")
    assert home.run("show", "a@v1").returncode == 3


def test_rows_are_removed_when_somebody_says_yes_and_is_told_what_was_trained_on_them(home: Home) -> None:
    rows = home.folder / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    home.client.datasets.add(rows)
    silent = home.run("data", "rm", "rows.jsonl")
    assert (silent.returncode, silent.stdout) == (2, "")
    assert "--yes" in silent.stderr
    status, _, shown = home.at_a_terminal("data", "rm", "rows.jsonl", asks="[y/N]", typed="n", piped=True)
    assert status == 130
    assert "remove rows.jsonl (" in shown
    assert len(home.client.datasets()) == 1
