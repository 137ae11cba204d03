"""`adapterctl config`."""

from __future__ import annotations

import click

from sdk import config
from sdk.cli.support.output import format_option, print_json, render


@click.group(name="config")
def config_command() -> None:
    """Show what is configured, and where it is from."""


@config_command.command(name="show")
@format_option
def config_show(style: str) -> None:
    """Show each setting, and where its value is from: an environment variable, the profile that `login` writes, or a default.

    A token is never shown, only whether there is one.

    \b
    Examples:
      adapterctl config show
      adapterctl config show --format json
    """
    rows = [{"setting": name, "value": value, "source": source} for name, value, source in config.explained()]
    if style == "json":
        print_json(rows)
    elif style == "quiet":
        click.echo("\n".join(str(row["value"]) for row in rows if row["setting"] == "url"))
    else:
        click.echo(render(["setting", "value", "source"], [[row[key] for key in row] for row in rows]))
