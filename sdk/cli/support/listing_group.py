"""Groups of commands: their help says of each command a whole sentence; some list what they are about, so that
`decisions NAME` is `decisions list NAME`.
"""

from __future__ import annotations

import click

#: More characters than a sentence has.
_LONGEST = 1000


class CommandGroup(click.Group):
    """A group whose help has the first sentence of each command whole, in as many lines as it takes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [
            (name, one.get_short_help_str(_LONGEST)) for name, one in commands if one is not None and not one.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class ListingGroup(CommandGroup):
    """A group in which a first argument that is no command belongs to the command `list`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name; any other name is one to list for."""
        return super().get_command(ctx, cmd_name) or self.commands["list"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. While a shell completes, none may still become either."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)
