"""TAB in bash, zsh and fish, at a real terminal, after commands that have listed names; and what forgets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes
from support.adapters import base_registration, save_adapter
from support.command_line import CommandLine
from support.registries import World, served
from support.shells import PATIENT, STARTS, Shell, is_here

from registry.principal import Role
from sdk.cli.completing.names_file import NamesFile
from sdk.client import Client
from sdk.config import Config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with two versions of `code-review`, of which `production` names the first."""
    folder = tmp_path_factory.mktemp("server")
    with served(folder) as world:
        world.admin.bases.register(base_registration())
        for seed in (1, 2):
            world.admin.push(save_adapter(folder / f"adapter-{seed}", seed), "code-review", base="tiny")
        world.admin.set_alias("code-review", "production", 1)
        yield world


@pytest.fixture
def node(world: World, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, url=world.url, token=world.token(Role.READER, namespace="-"))


def names_of(node: CommandLine, monkeypatch: pytest.MonkeyPatch) -> NamesFile:
    monkeypatch.setenv("ADAPTERCTL_CACHE", node.env["ADAPTERCTL_CACHE"])
    return NamesFile(Config(node.url, node.env["ADAPTERCTL_TOKEN"]))


@pytest.mark.parametrize("shell", STARTS)
def test_tab_completes_what_was_listed(shell: str, node: CommandLine, tmp_path: Path) -> None:
    if not is_here(shell):
        pytest.skip(f"there is no {shell} on this machine")
    node.ok("list")
    node.ok("versions", "code-review")
    # From here on only the file answers.
    env = {**node.env, "http_proxy": "http://127.0.0.1:9"}
    (tmp_path / "with space.jsonl").write_text("")
    with Shell(shell, tmp_path, env) as terminal:
        assert "code-review" in terminal.press("adapterctl show code-r\t", "code-review")
        terminal.clear()
        shown = terminal.press("adapterctl show code-review@\t\t", "latest")
        assert all(each in shown for each in ("production", "v1", "v2", "latest"))
        terminal.clear()
        assert "code-review@production " in terminal.press("adapterctl show code-review@pro\t", "@production ")
        terminal.clear()
        terminal.press("adapterctl prom\t", "promote ")
        terminal.clear()
        terminal.press("adapterctl eval base:ti\t", "base:tiny ")
        terminal.clear()
        shown = terminal.press("adapterctl train x --data wi\t", "space.jsonl")
        # As one word of a shell.
        assert "with\\ space.jsonl" in shown or "'with space.jsonl'" in shown


@pytest.mark.parametrize("shell", STARTS)
def test_hostile_name_in_the_file_is_neither_run_nor_shown(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_here(shell):
        pytest.skip(f"there is no {shell} on this machine")
    node = CommandLine(tmp_path)
    monkeypatch.setenv("ADAPTERCTL_CACHE", node.env["ADAPTERCTL_CACHE"])
    file = NamesFile(Config(node.url))
    file.add([("adapter", "good")])
    hostile = [
        f"g$(touch {tmp_path}/run)",
        f"g`touch {tmp_path}/run`",
        "g;touch run",
        "g\x1b]0;x\x07",
        "g\ntouch run\n",
        "g'\"",
        "g*",
    ]
    file.path.write_text(json.dumps([*(["adapter", name] for name in hostile), ["adapter", "good"]]))
    with Shell(shell, tmp_path, node.env) as terminal:
        shown = terminal.press("adapterctl versions g\t", "good ")
    assert "touch" not in shown
    assert not (tmp_path / "run").exists()


def test_server_is_asked_for_what_no_command_has_listed(node: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    node.env |= {"_ADAPTERCTL_COMPLETE": "fish_complete", "_ADAPTERCTL_LINE": "adapterctl show code-review@"}
    done = processes.run("python", "-c", PATIENT, env=node.env)
    assert done.stderr == ""
    rows = done.stdout.splitlines()
    assert [row.split("\t")[1] for row in rows] == [
        f"code-review@{each}" for each in ("production", "v2", "v1", "latest")
    ]
    assert ("ref", "code-review@v2") in names_of(node, monkeypatch).read()


def test_names_are_gone_once_the_token_is_refused(
    node: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.ok("list")
    mine = names_of(node, monkeypatch)
    assert ("adapter", "code-review") in mine.read()
    # As it would have been while it was valid.
    refused = NamesFile(Config(node.url, "actl_revoked"))
    refused.add([("adapter", "code-review")])
    node.refused(5, "list", ADAPTERCTL_TOKEN="actl_revoked")
    assert not refused.path.exists()
    assert mine.path.exists()


def test_push_and_show_leave_names_for_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = CommandLine(tmp_path)
    client = Client(node.url, cache=tmp_path / "other")
    client.bases.register(base_registration())
    client.close()
    node.ok("push", str(save_adapter(tmp_path / "adapter", 1)), "team/sql", "--base", "tiny")
    monkeypatch.setenv("ADAPTERCTL_CACHE", node.env["ADAPTERCTL_CACHE"])
    assert {("adapter", "team/sql"), ("ref", "team/sql@v1"), ("base", "tiny")} <= {*NamesFile(Config(node.url)).read()}
