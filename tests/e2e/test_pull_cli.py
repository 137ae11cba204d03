"""Pulls through the real `adapterctl`: what they print, keep, refuse, and do without the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import keys, processes
from support.adapters import base_registration, save_adapter
from support.command_line import CommandLine
from support.registries import World, served

from registry.principal import Role
from sdk.client import Client
from sdk.pulling.cache import Cache
from sdk.pulling.folder import verify_folder
from sdk.pulling.leases import lease

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> CommandLine:
    """An embedded registry with two versions of `team/a`, of which `production` names the first."""
    url = f"local:{tmp_path / 'home'}"
    client = Client(url, cache=tmp_path / "pusher")
    client.bases.register(base_registration())
    for seed in (1, 2):
        client.push(save_adapter(tmp_path / f"adapter-{seed}", seed), "team/a", base="tiny")
    client.set_alias("team/a", "production", 1)
    client.close()
    return CommandLine(tmp_path)


def test_a_pull_says_what_it_would_do_and_does_it(node: CommandLine, tmp_path: Path) -> None:
    plan = node.json("pull", "team/a@production", "--dry-run")
    assert [(file["path"], file["cached"]) for file in plan["files"]] == [
        ("adapter_config.json", False),
        ("adapter_model.safetensors", False),
    ]
    assert plan["size_bytes"] == plan["fetch_bytes"] == sum(file["size_bytes"] for file in plan["files"])
    # Nothing but the names that shells complete.
    assert [path.name for path in (node.folder / "cache").iterdir()] == ["names"]

    pulled = node.json("pull", "team/a@production")
    assert (pulled["ref"], pulled["digest"]) == ("team/a@v1", plan["digest"])
    assert Path(pulled["path"]).is_relative_to(node.folder / "cache")
    assert node.run("pull", "team/a@v1", "--format", "quiet").stdout == f"{pulled['path']}\n"
    assert node.json("pull", "team/a@v1", "--dry-run")["fetch_bytes"] == 0
    # The second version has the same config, which is not fetched again.
    other = node.json("pull", "team/a", "--dry-run")
    assert [file["cached"] for file in other["files"]] == [True, False]
    shown = node.run("pull", "team/a", "--dry-run")
    assert "adapter_model.safetensors" in shown.stdout
    assert "team/a@v2" in shown.stderr

    target = tmp_path / "out"
    assert node.run("pull", "team/a@v1", "-o", str(target)).stdout == f"{target}\n"
    verify_folder(target)
    # An edit of the copy reaches nobody else.
    (target / "adapter_config.json").write_text("{}")
    assert node.run("verify", pulled["path"]).returncode == 0
    assert node.run("verify", "team/a@v1").returncode == 0
    assert "adapter_config.json" in node.refused(7, "verify", str(target))
    # What a pull wrote is replaced, what it didn't write is not.
    assert node.run("pull", "team/a@v2", "-o", str(target)).returncode == 0
    assert node.json("verify", str(target))["digest"] == other["digest"]
    (target / "mine.txt").write_text("precious")
    assert "mine.txt" in node.refused(4, "pull", "team/a@v1", "-o", str(target))
    assert (target / "mine.txt").read_text() == "precious"


def test_offline_only_what_cant_move(node: CommandLine, tmp_path: Path) -> None:
    assert "team/a@vN --offline" in node.refused(2, "pull", "team/a", "--offline")
    assert "is not in the cache" in node.refused(3, "pull", "team/a@v1", "--offline")
    path = node.json("pull", "team/a@production")["path"]
    digest = node.json("pull", "team/a@v1")["digest"]
    # The registry is gone.
    (tmp_path / "home").rename(tmp_path / "moved")
    for ref in ("team/a@v1", f"team/a@sha256:{digest}", f"team/a@sha256:{digest[:12]}"):
        assert node.json("pull", ref, "--offline")["path"] == path
    assert node.json("pull", "team/a@v1", "--offline", "-o", str(tmp_path / "out"))["digest"] == digest
    verify_folder(tmp_path / "out")
    for ref in ("team/a", "team/a@latest", "team/a@production"):
        assert "adapterctl pull team/a@v1 --offline" in node.refused(2, "pull", ref, "--offline")
    assert node.refused(3, "pull", "team/a@v2", "--offline")
    assert node.refused(3, "pull", "team/a@v1", "--offline", ADAPTERCTL_URL="http://127.0.0.1:9")
    assert node.refused(2, "pull", "team/a@v1", "--offline", "--base", "tiny")
    assert not (tmp_path / "home").exists()


def test_a_moving_ref_never_comes_from_the_cache(node: CommandLine) -> None:
    url = f"http://127.0.0.1:{processes.free_port()}"
    node.run("pull", "team/a@production")
    said = node.refused(9, "pull", "team/a@production", ADAPTERCTL_URL=url)
    assert "can't be reached" in said
    assert "adapterctl pull team/a@vN --offline" in said


def test_frozen_takes_no_ref_that_may_move(node: CommandLine) -> None:
    digest = node.json("pull", "team/a@v1")["digest"]
    for ref in ("team/a@production", "team/a@v2"):
        done = node.run("pull", ref, "--frozen")
        assert done.returncode == (2 if "production" in ref else 0)
    assert f"team/a@sha256:{digest}" in node.refused(2, "pull", "team/a@production", "--frozen")
    assert node.run("pull", f"team/a@sha256:{digest}", "--frozen").returncode == 0
    assert node.run("pull", "team/a@production", "--base", "tiny").returncode == 0
    assert node.refused(2, "pull", "team/a@production", "--base", "tiny", "--frozen")
    assert node.refused(3, "pull", "team/a@v1", "--base", "other")


def test_the_base_is_renamed_in_a_copy(node: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert "-o DIR" in node.refused(2, "pull", "team/a@v1", "--base-name", "served")
    node.json("pull", "team/a@v1", "-o", str(target), "--base-name", "served")
    assert json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"] == "served"
    assert node.run("verify", str(target)).returncode == 0
    cached = Path(node.json("pull", "team/a@v1")["path"])
    assert json.loads((cached / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    (target / "adapter_config.json").write_text((target / "adapter_config.json").read_text().replace("served", "x"))
    assert node.refused(7, "verify", str(target))


def test_signatures_are_pulled_and_verified(node: CommandLine, tmp_path: Path) -> None:
    key, public = keys.make_key(tmp_path, "one")
    other = keys.make_key(tmp_path, "two").public
    target = tmp_path / "out"
    said = node.refused(7, "pull", "team/a@v1", "-o", str(target), "--verify-with", str(public))
    assert "has no signature" in said
    assert not target.exists()
    for version in ("v1", "v2"):
        assert node.run("sign", f"team/a@{version}", "--key", str(key)).returncode == 0
    node.json("pull", "team/a@v1", "-o", str(target), "--verify-with", str(public), "--base-name", "served")
    assert [set(one) for one in json.loads((target / ".adapterctl/signatures.json").read_text())] == [
        {"key_id", "bundle"}
    ]
    assert node.json("verify", str(target), "--verify-with", str(public))["signed"] is True
    assert node.run("verify", "team/a@v1", "--verify-with", str(public)).returncode == 0
    assert node.run("pull", "team/a@v1", "--offline", "--verify-with", str(public)).returncode == 0
    for command in ("pull", "verify"):
        assert node.refused(7, command, "team/a@v1", "--verify-with", str(other))
    assert node.refused(7, "verify", str(target), "--verify-with", str(other))
    # Another version's signature is none.
    second = tmp_path / "second"
    node.json("pull", "team/a@v2", "-o", str(second))
    (target / ".adapterctl/signatures.json").write_bytes((second / ".adapterctl/signatures.json").read_bytes())
    assert node.run("verify", str(target)).returncode == 0
    assert node.refused(7, "verify", str(target), "--verify-with", str(public))
    (target / ".adapterctl/signatures.json").write_text("[")
    assert node.refused(7, "verify", str(target), "--verify-with", str(public))


def test_the_cache_is_listed_verified_and_pruned(node: CommandLine) -> None:
    assert node.json("cache", "list") == []
    for version in ("v1", "v2"):
        node.run("pull", f"team/a@{version}")
    listed = node.json("cache", "list")
    assert [row["refs"] for row in listed] == [["team/a@v2"], ["team/a@v1"]]
    assert node.json("cache", "verify") == {"entries": 2, "damaged": [], "ok": True}
    file = Path(listed[0]["path"]) / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert node.refused(7, "pull", "team/a@v2", "-o", str(node.folder / "out"))
    damaged = node.run("cache", "verify", "--format", "json")
    assert damaged.returncode == 7
    assert [row["digest"] for row in json.loads(damaged.stdout)["damaged"]] == [listed[0]["digest"]]
    assert node.run("pull", "team/a@v2", "-o", str(node.folder / "out")).returncode == 0

    assert node.refused(2, "cache", "prune")
    assert "--yes" in node.refused(2, "cache", "prune", "--keep", "1")
    assert node.refused(2, "cache", "prune", "--max-size", "much")
    would = node.json("cache", "prune", "--keep", "1", "--dry-run")
    assert [row["refs"] for row in would["removed"]] == [["team/a@v1"]]
    assert len(node.json("cache", "list")) == 2
    gone = node.json("cache", "prune", "--keep", "1", "--yes")
    assert (gone["removed"][0]["digest"], gone["held"]) == (listed[1]["digest"], [])
    assert [row["refs"] for row in node.json("cache", "list")] == [["team/a@v2"]]
    cache = Cache(node.folder / "cache")
    for owner in ("serve-8011", "other"):
        lease(cache, listed[0]["digest"], owner)
    held = node.json("cache", "prune", "--max-size", "0", "--yes")
    assert (held["removed"], [row["used_by"] for row in held["held"]]) == ([], [["other", "serve-8011"]])
    (row,) = node.json("cache", "list")
    assert [one["pid"] for one in row["leases"]] == [os.getpid()] * 2
    assert "serve-8011 (process" in node.run("cache", "prune", "--keep", "0", "--yes").stderr
    digits = listed[0]["digest"][:12]
    assert "--yes" in node.refused(2, "cache", "release", digits)
    assert "12 digits" in node.refused(2, "cache", "release", digits[:8], "--yes")
    assert "cache list" in node.refused(3, "cache", "release", "0" * 12, "--yes")
    assert "no 'nobody' holds" in node.refused(3, "cache", "release", digits, "--owner", "nobody", "--yes")
    ended = node.json("cache", "release", digits, "--owner", "other", "--yes")["released"]
    assert [one["owner"] for one in ended] == ["other"]
    ended = node.json("cache", "release", f"sha256:{digits}", "--yes")["released"]
    assert [one["owner"] for one in ended] == ["serve-8011"]
    assert node.json("cache", "prune", "--max-size", "0", "--yes")["removed"]
    assert node.json("cache", "prune", "--keep-days", "0", "--yes")["removed"] == []
    assert node.json("cache", "list") == []
    assert list(((node.folder / "cache") / "blobs").rglob("*.*")) == []


# Behind HTTP, where a pull asks its questions itself.


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "server"
    with served(folder, database_url=f"sqlite:///{folder / 'r.sqlite3'}") as world:
        world.admin.bases.register(base_registration())
        world.writer.push(save_adapter(tmp_path / "adapter", 1), "team/a", base="tiny")
        world.writer.set_alias("team/a", "production", 1)
        yield world


@pytest.fixture
def remote(world: World, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "node", url=world.url, token=world.token(Role.READER))


def test_a_pull_over_http(remote: CommandLine, world: World, tmp_path: Path) -> None:
    plan = remote.json("pull", "team/a@production", "--dry-run")
    assert plan["fetch_bytes"] > 0
    pulled = remote.json("pull", "team/a@production", "-o", str(tmp_path / "out"))
    assert (pulled["ref"], pulled["digest"]) == ("team/a@v1", plan["digest"])
    assert verify_folder(tmp_path / "out").digest == plan["digest"]
    assert remote.json("pull", "team/a@v1", "--offline")["digest"] == plan["digest"]
    assert "there is no" in remote.refused(3, "pull", "team/b@v1")
    assert remote.refused(5, "pull", "team/a@v1", ADAPTERCTL_TOKEN="no-such-token")
    assert remote.refused(2, "pull", "Team/a@v1")
    # Through a proxy: one that nobody listens on, and one that is not for this host.
    assert remote.refused(9, "pull", "team/a@v1", http_proxy="http://127.0.0.1:9")
    assert remote.run("pull", "team/a@v1", http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1").returncode == 0


def test_sixteen_pulls_on_one_node_transfer_a_version_once(remote: CommandLine, world: World) -> None:
    command = [str(processes.BIN / "adapterctl"), "pull", "team/a@production"]
    started = [
        subprocess.Popen(command, env=remote.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    done = [(process.communicate(), process.returncode) for process in started]
    assert {code for _, code in done} == {0}, done
    (path,) = {out.strip() for (out, _), _ in done}
    assert verify_folder(Path(path)).digest == Path(path).name


WITHOUT = """
import sys
from sdk.cli import cli
cli.main(["pull", "team/a@v1", "-o", sys.argv[1]], standalone_mode=False)
heavy = {"pydantic", "httpx", "rich", "numpy", "yaml", "logging", "asyncio", "importlib.metadata"}
print(*sorted(heavy & sys.modules.keys()))
"""


def test_a_pull_imports_nothing_heavy(remote: CommandLine, tmp_path: Path) -> None:
    for name in ("cold", "warm"):
        done = processes.finished(sys.executable, "-c", WITHOUT, str(tmp_path / name), env=remote.env, check=True)  # fmt: skip
        assert done.stdout.splitlines() == [str(tmp_path / name), ""]
