"""`adapterctl base`."""

from __future__ import annotations

import click

from sdk.cli.output import format_option, human_bytes, print_facts, print_json, print_rows, say
from sdk.cli.session import open_client


@click.group(name="base")
def base_command() -> None:
    """Add and list bases."""


@base_command.command(name="add")
@click.argument("folder")
@click.option("--id", "base_id", help="How it is called. [default: the folder's name]")
@click.option("--upload", is_flag=True, help="Also send its files, for workers that don't see the folder.")
@format_option
def base_add(folder: str, base_id: str | None, upload: bool, style: str) -> None:
    """Register the base in FOLDER: fingerprint, config, tensor shapes.

    \b
    Example:
      adapterctl base add ./SmolLM2-135M-Instruct --upload
    """
    with open_client() as client:
        view = client.add_base(folder, id=base_id, upload=upload)
    if style == "json":
        print_json(view.model_dump(mode="json"))
    else:
        click.echo(view.id)
        if style == "table":
            say(f"fingerprint {view.fingerprint}")


@base_command.command(name="list")
@format_option
def base_list(style: str) -> None:
    """List bases, the newest first.

    \b
    Example:
      adapterctl base list
    """
    with open_client() as client:
        rows = [view.model_dump(mode="json", exclude={"config"}) for view in client.bases()]
    for row in rows:
        row["size"] = human_bytes(row["size_bytes"])
    columns = ["id", "fingerprint", "architecture", "size", "uploaded"]
    print_rows(style, rows, columns, key="id", empty="no bases yet; add one with: adapterctl base add FOLDER")


@base_command.command(name="show")
@click.argument("name")
@format_option
def base_show(name: str, style: str) -> None:
    """Show a base by id or fingerprint.

    \b
    Example:
      adapterctl base show SmolLM2-135M-Instruct --format json
    """
    with open_client() as client:
        view = client.base(name)
    if style == "json":
        print_json(view.model_dump(mode="json"))
    elif style == "quiet":
        click.echo(view.fingerprint)
    else:
        shown = view.model_dump(mode="json", exclude={"config", "size_bytes"})
        print_facts([*shown.items(), ("size", human_bytes(view.size_bytes))])
