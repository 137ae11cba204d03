"""`adapterctl help`, `version`."""

from __future__ import annotations

import click

from sdk.errors import InvalidInput
from sdk.version import VERSION


@click.command(name="help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, as `COMMAND --help` does.

    \b
    Examples:
      adapterctl help
      adapterctl help jobs watch
    """
    shown = ctx.find_root()
    for name in command:
        group = shown.command
        below = None
        if isinstance(group, click.Group) and name in group.list_commands(shown):
            below = group.get_command(shown, name)
        if below is None:
            raise InvalidInput(
                f"there is no command {' '.join(command)[:200]!a}; see: {shown.command_path} --help", param="command"
            )
        shown = click.Context(below, info_name=name, parent=shown)
    click.echo(shown.get_help())


@click.command(name="version")
@click.argument("name", required=False)
def version_command(name: str | None) -> None:
    """Show the version of this program. The versions of an adapter are listed by `adapterctl versions NAME`.

    \b
    Example:
      adapterctl version
    """
    if name is not None:
        raise InvalidInput(f"this shows the version of adapterctl; see: adapterctl versions {name[:200]}", param="name")
    click.echo(f"adapterctl {VERSION}")
