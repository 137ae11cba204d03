"""`adapterctl completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sdk.errors import InvalidInput


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Example:
      adapterctl completion bash >> ~/.bashrc
    """
    found = get_completion_class(shell)
    if found is None:
        raise InvalidInput(f"there is no completion for {shell}", param="shell")
    from sdk.cli import cli

    click.echo(found(cli, {}, "adapterctl", "_ADAPTERCTL_COMPLETE").source())
