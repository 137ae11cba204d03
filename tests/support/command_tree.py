"""Writes `sdk/cli/completing/command_tree.json`, what a shell completes of the commands, from the commands themselves.

PYTHONPATH=tests python -m support.command_tree
"""

from __future__ import annotations

import json
from typing import Any

import click

from sdk.cli import cli
from sdk.cli.commands.sweep.group import SweepGroup
from sdk.cli.completing.command_tree import FILE
from sdk.cli.completing.kinds import ArgumentKind
from sdk.cli.support.listing_group import ListingGroup

_MOST_HELP = 60


def written() -> str:
    """Return the file as it must be: a line for each argument and option, so that changes of it can be read."""
    return json.dumps(_node(cli, click.Context(cli)), ensure_ascii=False).replace('{"name":', '\n{"name":') + "\n"


def _node(command: click.Command, ctx: click.Context) -> dict[str, Any]:
    node: dict[str, Any] = {
        "help": command.get_short_help_str(_MOST_HELP),
        "params": [_param(each) for each in command.params if not getattr(each, "hidden", False)],
    }
    if isinstance(command, click.Group):
        names = command.list_commands(ctx)
        below = {name: command.get_command(ctx, name) for name in names}
        node["commands"] = {name: _node(each, ctx) for name, each in below.items() if each and not each.hidden}
    if isinstance(command, ListingGroup):
        node["begins"] = node["commands"]["list"]
    if isinstance(command, SweepGroup):
        node["begins"] = _node(command.begins, ctx)
    return node


def _param(param: click.Parameter) -> dict[str, Any]:
    node: dict[str, Any] = {"name": param.name}
    if isinstance(param.type, click.Choice):
        node["choices"] = [str(choice) for choice in param.type.choices]
    if isinstance(param.type, ArgumentKind):
        node["sorts"] = list(param.type.sorts)
    if param.nargs != 1:
        node["nargs"] = param.nargs
    if isinstance(param, click.Option):
        node["flags"] = list(param.opts)
        node |= {"off": list(param.secondary_opts)} if param.secondary_opts else {}
        node |= {"is_flag": True} if param.is_flag else {}
        node |= {"multiple": True} if param.multiple else {}
        node |= {"help": param.help.split(". ")[0][:_MOST_HELP]} if param.help else {}
    return node


if __name__ == "__main__":
    FILE.write_text(written())
