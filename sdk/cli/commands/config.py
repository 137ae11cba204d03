"""`adapterctl config`."""

from __future__ import annotations

import click

from sdk import config
from sdk.cli.support.columns import CellForm, ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import print_json

_SETTINGS = Listing(
    ListColumn("setting"),
    ListColumn("value", importance=8, form=CellForm.PROSE),
    ListColumn("source", importance=7, form=CellForm.NAME),
    key="setting",
)


@click.group(name="config", cls=CommandGroup)
def config_command() -> None:
    """Show what is configured, and where it is from."""


@config_command.command(name="show")
@listed(_SETTINGS)
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
        _SETTINGS.print(style, rows, empty="nothing is configured")
