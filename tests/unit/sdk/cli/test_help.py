"""What `--help` prints: of every command, within 80 columns."""

from __future__ import annotations

import click
import pytest

from sdk.cli import COMMANDS
from sdk.cli import cli as adapterctl_cli


def _contexts(context: click.Context) -> list[click.Context]:
    """A command's context, and those of all below it."""
    found = [context]
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            found += _contexts(_context(command, name, context))
    return found


def _context(command: click.Command, name: str, parent: click.Context | None = None, width: int = 80) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, terminal_width=width, max_content_width=width)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_no_line_is_longer_than_80_columns_and_no_word_is_broken(name: str | None) -> None:
    root = _context(adapterctl_cli, "adapterctl")
    if name is None:
        contexts = [root]
    else:
        command = adapterctl_cli.get_command(root, name)
        contexts = _contexts(_context(command, name, root))
    for context in contexts:
        wide = [line for line in context.get_help().splitlines() if len(line) > 80]
        assert not wide, context.command_path

        # A word that is whole where there is room for everything is whole here.
        whole = _context(context.command, context.info_name or "", context.parent, width=2000).get_help().split()
        broken = set(context.get_help().split()) - set(whole)
        assert not broken, context.command_path


@pytest.mark.parametrize("width", [70, 78, 98])
def test_options_are_whole_in_help_at_the_widths_that_terminals_have(width: int) -> None:
    for name in ("eval", "push", "plan", "sweep"):
        command = adapterctl_cli.get_command(_context(adapterctl_cli, "adapterctl"), name)
        whole = set(_context(command, name, width=2000).get_help().split())
        assert set(_context(command, name, width=width).get_help().split()) <= whole
