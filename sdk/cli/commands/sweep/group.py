"""A command that has commands below it, and does its own work for any other first argument.

Its options are those of a training as texts; a flag alone means true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.spec_options import flag_of
from sdk.schemas.codes import plain_type
from sdk.schemas.training import TrainingSpec
from sdk.submitting.sweep_options import check_swept


class Beginning(click.Command):
    """What a group does itself; its help has the group's commands too."""

    beside: click.Group | None = None

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, and the commands."""
        super().format_help_text(ctx, formatter)
        if self.beside is not None:
            self.beside.format_commands(ctx, formatter)


class SweepGroup(CommandGroup):
    """`sweep`: `sweep list` and its like are commands, and any other `sweep NAME …` is `begins`."""

    def __init__(self, begins: Beginning) -> None:
        super().__init__(name="sweep", help=begins.help, short_help=begins.short_help)
        #: What other first arguments belong to.
        self.begins = begins
        begins.beside = self

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Return the command of a name; any other name is that of an adapter."""
        return super().get_command(ctx, cmd_name) or self.begins

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments of the command that is meant. Nothing yet, while a shell completes, may become either."""
        if (args and args[0] in self.commands) or (not args and extra.get("resilient_parsing")):
            if args and any(arg.split("=")[0] in ("--base", "--data", "--from") for arg in args):
                # Raises an error that says that this is a command.
                check_swept(args[0])
            return super().make_context(info_name, args, parent, **extra)
        return self.begins.make_context(info_name, list(_written_out(args)), parent, **extra)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and the options of a sweep."""
        return [*super().shell_complete(ctx, incomplete), *self.begins.shell_complete(ctx, incomplete)]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help of the sweep itself, with the commands."""
        self.begins.format_help(ctx, formatter)


def _written_out(args: list[str]) -> Iterator[str]:
    """Yield arguments with `--use-dora` as `--use-dora=true`, and `--no-double-quant` as `--double-quant=false`."""
    flags: dict[str, str] = {}
    for name, field in TrainingSpec.model_fields.items():
        if plain_type(field.annotation) is bool:
            flag = flag_of(name)
            flags |= {flag: f"{flag}=true", f"--no-{flag[2:]}": f"{flag}=false"}
    yield from (flags.get(arg, arg) for arg in args)
