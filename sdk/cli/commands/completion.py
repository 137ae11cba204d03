"""`adapterctl completion`."""

from __future__ import annotations

import click

from sdk.cli.completing.shells import SCRIPTS


@click.command(name="completion")
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def completion_command(shell: str) -> None:
    """Print the completion script for SHELL.

    It completes commands and options, and the names of versions, aliases, jobs, bases, datasets and files.

    \b
    Examples:
      adapterctl completion bash >> ~/.bashrc
      adapterctl completion zsh >> ~/.zshrc
      adapterctl completion fish > ~/.config/fish/completions/adapterctl.fish
    """
    click.echo(SCRIPTS[shell], nl=False)
