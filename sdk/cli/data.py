"""`adapterctl data`."""

from __future__ import annotations

import click

from sdk.cli.output import format_option, print_json, print_rows, say
from sdk.cli.session import open_client


@click.group(name="data")
def data_command() -> None:
    """Add and list datasets."""


@data_command.command(name="add")
@click.argument("file")
@format_option
def data_add(file: str, style: str) -> None:
    """Check and upload the dataset in FILE; print its digest.

    \b
    Example:
      adapterctl data add reviews.jsonl
    """
    with open_client() as client:
        view = client.add_data(file)
    if style == "json":
        print_json(view.model_dump(mode="json"))
    else:
        click.echo(view.digest)
        if style == "table":
            say(f"{'?' if view.rows is None else view.rows} rows of {view.shape or view.format}")


@data_command.command(name="list")
@format_option
def data_list(style: str) -> None:
    """List datasets, the newest first.

    \b
    Example:
      adapterctl data list
    """
    with open_client() as client:
        rows = [view.model_dump(mode="json") for view in client.datasets()]
    columns = ["digest", "name", "rows", "shape", "created_at"]
    print_rows(style, rows, columns, key="digest", empty="no datasets yet; add one with: adapterctl data add FILE")
