"""The README, `--help` and what the program does are one: commands and options exist, and the SDK's lines run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from registry.ops.cli import cli as registry_cli
from sdk.cli import COMMANDS
from sdk.cli import cli as adapterctl_cli
from workers.entry.cli import cli as worker_cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
#: The language and the text of each block that a reader may follow.
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
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
            for part in re.split(r"&&|;|>>| \| ", line):
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
    options = {name for param in command.get_params(context) for name in (*param.opts, *param.secondary_opts)}
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
    shown = set(re.findall(r"make ([a-z]+)", README))
    assert {"demo", "test"} <= shown <= targets


def _leaves(path: str, command: click.Command | None) -> list[tuple[str, click.Command]]:
    """Return the command, or all those in a group, with what is typed for each."""
    assert command is not None
    if not isinstance(command, click.Group):
        return [(path, command)]
    context = click.Context(command)
    return [
        leaf
        for name in command.list_commands(context)
        for leaf in _leaves(f"{path} {name}", command.get_command(context, name))
    ]


def test_help_lists_every_command_with_an_example() -> None:
    context = click.Context(adapterctl_cli)
    for name in COMMANDS:
        for path, leaf in _leaves(f"adapterctl {name}", adapterctl_cli.get_command(context, name)):
            assert "Example" in (leaf.help or ""), f"{path} --help shows no example"


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_sdk_is_shown_in_ten_lines() -> None:
    (block,) = [text for language, text in BLOCKS if language == "python"]
    assert len([line for line in block.splitlines() if line.strip()]) <= 11


def test_commands_without_format_are_those_that_the_readme_names() -> None:
    found = re.search(r"takes `--format json`, except (.*?), and exits", README.replace("\n", " "))
    named = set(re.findall(r"`([a-z ]+)`", found[1]))
    context = click.Context(adapterctl_cli)
    without = {
        path.removeprefix("adapterctl ")
        for name in COMMANDS
        for path, leaf in _leaves(f"adapterctl {name}", adapterctl_cli.get_command(context, name))
        if not any("--format" in param.opts for param in leaf.params)
    }
    assert without == named
