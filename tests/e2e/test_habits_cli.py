"""What the program says where somebody expects something else, at a real terminal where one is needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import processes
from support.command_line import CommandLine
from support.tiny import save_llama

from sdk.config import Config, profile_path, write_profile

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def test_gc_asks_nothing_where_nothing_would_go(node: CommandLine) -> None:
    status, _, shown = node.at_a_terminal("gc")
    assert status == 0
    assert "there is nothing to remove" in shown
    assert "?" not in shown


@pytest.mark.parametrize("asked", [["version"], ["list", "--help"]])
def test_output_whose_reader_has_gone_is_no_failure(node: CommandLine, asked: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        done = subprocess.run(
            [processes.BIN / "adapterctl", *asked], env=node.env, stdout=output, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_list_whose_reader_has_gone_is_no_failure(node: CommandLine) -> None:
    node.ok("list")
    for asked in (["list"], ["jobs", "list", "--format", "json"], ["config", "show"], ["audit", "--format", "table"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [processes.BIN / "adapterctl", *asked], env=node.env, stdout=writing, stderr=subprocess.PIPE
        )
        os.close(writing)
        assert (done.returncode, b"Error" in done.stderr, b"rror:" in done.stderr) == (0, False, False), asked


def test_watch_without_jobs_says_so(node: CommandLine) -> None:
    assert "no job waits or runs; see those that have ended with" in node.refused(3, "jobs", "watch")
    assert node.run("jobs", "list", "--state", "failed").stderr == "no job matches these filters\n"
    assert node.run("list", "--prefix", "none").stderr == "no adapter matches these filters\n"


def test_unreachable_server_says_where_its_url_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = CommandLine(tmp_path, url="http://127.0.0.1:9", token="actl_x")
    assert node.refused(9, "list").endswith("(the URL is from ADAPTERCTL_URL)")
    assert node.refused(9, "login", "http://127.0.0.1:10").endswith("(the URL is the one that was given)")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_profile(Config("http://127.0.0.1:9", "actl_x"))
    node.env["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    assert node.refused(9, "list", ADAPTERCTL_URL="").endswith(f"(the URL is from profile {profile_path()})")


def test_base_of_known_files_says_that_another_id_is_not_used(node: CommandLine, tmp_path: Path) -> None:
    save_llama(tmp_path / "tiny")
    node.ok("base", "add", str(tmp_path / "tiny"))
    done = node.run("base", "add", str(tmp_path / "tiny"), "--id", "other")
    assert done.stdout == "tiny\n"
    assert (
        "--id other was not used: these files are registered as tiny; change that with: adapterctl base fix"
        in done.stderr
    )
