"""A group of commands that lists what it is about: `decisions NAME` is `decisions list NAME`."""

from __future__ import annotations

import click


class ListingGroup(click.Group):
    """A group in which a first argument that is no command belongs to the command `list`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name; any other name is one to list for."""
        return super().get_command(ctx, cmd_name) or self.commands["list"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. While a shell completes, none may still become either."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)
