"""The reference of the command line, written from the commands themselves: `PYTHONPATH=tests python -m support.cli_pages`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from sdk.cli import COMMANDS
from sdk.cli import cli as adapterctl_cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
_HEAD = """\
# The command line

Every command of `adapterctl` with its options, as `--help` prints them; each also has `-h` and `--help`. This page is written by
`PYTHONPATH=tests python -m support.cli_pages`. [how-to.md](how-to.md) begins with what you want instead; exit codes are in the
[README](../README.md#a-first-adapter).

| command | what it does |
|---|---|
"""


def written() -> str:
    """Return the whole page."""
    rows = "".join(f"| [`{name}`](#{name}) | {_cell(text)} |\n" for name, (_, text) in COMMANDS.items())
    return _HEAD + rows + "".join(_section(context) for name in COMMANDS for context in _contexts(name))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _contexts(name: str) -> Iterator[click.Context]:
    root = click.Context(adapterctl_cli, info_name="adapterctl")
    command = adapterctl_cli.get_command(root, name)
    assert command is not None
    yield from _with_those_below(command, name, root)


def _with_those_below(command: click.Command, name: str, parent: click.Context) -> Iterator[click.Context]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    yield context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _with_those_below(found, inner, context)


def _section(context: click.Context) -> str:
    path = context.command_path.removeprefix("adapterctl ")
    level = "##" if " " not in path else "###"
    # How `--help` itself is spelled depends on the context in which it was asked for first. A group may write the help of the
    # command that it begins.
    commands = [context.command, *filter(None, [getattr(context.command, "begins", None)])]
    with ExitStack() as stack:
        for command in commands:
            stack.callback(setattr, command, "add_help_option", command.add_help_option)
            command.add_help_option = False
        text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
    return f"\n{level} {path}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
