"""The commands with their options as a shell completes them, read from `command_tree.json`.

Importing the commands themselves takes longer than somebody waits for after TAB. `tests/support/command_tree.py` writes
the file, and a test holds it against the commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sdk.cli.completing.kinds import ArgumentKind

FILE = Path(__file__).with_suffix(".json")

#: A command in the file: `help`, `params`; a group's `commands`; `begins`, the command to which any other first argument
#: belongs, if there is one.
Node = Mapping[str, Any]


def read_tree() -> click.Command:
    """Return the commands, none of which can be run. Raises OSError, ValueError."""
    return _made("adapterctl", json.loads(FILE.read_bytes()))


class CommandInTree(click.Command):
    """A command whose arguments are known even while an option lacks its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, without an option at the end whose value is yet to come."""
        valued = (param for param in self.params if isinstance(param, click.Option) and not param.is_flag)
        if args and any(args[-1] in option.opts for option in valued):
            args = args[:-1]
        return super().parse_args(ctx, args)


class GroupInTree(click.Group):
    """A group whose commands are made when they are looked for."""

    def __init__(self, name: str, node: Node) -> None:
        super().__init__(name, params=_params(node), help=node["help"], **_SETTINGS)
        self._nodes: Mapping[str, Node] = node["commands"]
        self._begins = _made(name, node["begins"]) if "begins" in node else None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return list(self._nodes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        if cmd_name in self._nodes:
            return _made(cmd_name, self._nodes[cmd_name])
        return self._begins

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments of the command that is meant."""
        if self._begins is not None and args and args[0] not in self._nodes:
            return self._begins.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Commands, and what the group itself takes."""
        found = super().shell_complete(ctx, incomplete)
        if self._begins is None:
            return found
        first = next(param for param in self._begins.params if isinstance(param, click.Argument))
        named = [] if incomplete.startswith("-") else first.shell_complete(ctx, incomplete)
        return [*found, *self._begins.shell_complete(ctx, incomplete), *named]


_SETTINGS: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}}


def _made(name: str, node: Node) -> click.Command:
    if "commands" in node:
        return GroupInTree(name, node)
    return CommandInTree(name, params=_params(node), help=node["help"], **_SETTINGS)


def _params(node: Node) -> list[click.Parameter]:
    return [_param(each) for each in node["params"]]


def _param(node: Node) -> click.Parameter:
    kind: Any = click.Choice(node["choices"]) if "choices" in node else ArgumentKind(*node.get("sorts", ()))
    if "flags" not in node:
        return click.Argument([node["name"]], type=kind, nargs=node.get("nargs", 1), required=False)
    flags = "/".join(part for part in (node["flags"][0], *node.get("off", ())[:1]) if part)
    names = [node["name"], flags, *node["flags"][1:]]
    if node.get("is_flag"):
        return click.Option(names, is_flag=True, help=node.get("help"))
    return click.Option(
        names, type=kind, nargs=node.get("nargs", 1), multiple=node.get("multiple", False), help=node.get("help")
    )
