"""The README, `--help` and what the program does are one: commands and options exist, and the SDK's lines run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import processes, tiny

from registry.ops.cli import cli as registry_cli
from sdk.cli import COMMANDS
from sdk.cli import cli as adapterctl_cli
from workers.entry.cli import cli as worker_cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PROGRAMS: dict[str, click.Group] = {
    "adapterctl": adapterctl_cli,
    "adapter-registry": registry_cli,
    "adapter-worker": worker_cli,
}


def _shown_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(adapter[a-z-]+ [^`\n]+)`", text)
        for line in lines:
            for part in re.split(r"&&|;|>>", line):
                words = part.strip().split(" ", 1)
                if words[0] in PROGRAMS and len(words) == 2:
                    found.append((page.name, part.strip()))
    return found


def _check(program: click.Command, words: list[str]) -> None:
    """Follow the words through groups and options; fail where one is not there."""
    context = click.Context(program)
    command = program
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        choices = name.split("|")
        found = [command.get_command(context, choice) for choice in choices]
        assert all(found), f"no command {name}"
        command = found[0]  # type: ignore[assignment]
    options = {option for param in command.get_params(context) for option in param.opts}
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.split("=")[0] in options, f"{command.name} has no option {word}"


@pytest.mark.parametrize(("page", "line"), _shown_commands())
def test_a_shown_command_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line.replace("…", "x"))
    _check(PROGRAMS[words[0]], words[1:])


def test_the_pages_show_commands_at_all() -> None:
    assert len(_shown_commands()) >= 15


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= shown <= targets


def test_help_lists_every_command_with_an_example() -> None:
    context = click.Context(adapterctl_cli)

    def leaves(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            return [
                leaf
                for sub in command.list_commands(context)
                for leaf in leaves(f"{name} {sub}", command.get_command(context, sub))
            ]  # type: ignore[arg-type]
        return [(name, command)]

    for name in COMMANDS:
        command = adapterctl_cli.get_command(context, name)
        assert command is not None
        for path, leaf in leaves(name, command):
            assert "Example" in (leaf.help or ""), f"adapterctl {path} --help shows no example"


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_sdk_in_ten_lines_runs(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 11
    tiny.save_llama(tmp_path / "SmolLM2-135M-Instruct")
    tiny.write_rows(tmp_path / "train.jsonl")
    env = processes.environment(
        ADAPTERCTL_URL=f"local:{tmp_path / 'home'}", ADAPTERCTL_CACHE=str(tmp_path / "cache"), HOME=str(tmp_path)
    )
    done = subprocess.run(
        [sys.executable, "-c", block[1]], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, folder = done.stdout.splitlines()
    assert first.startswith("docstring-writer@v1 ")
    assert (Path(folder) / "adapter_model.safetensors").is_file()
