"""`adapterctl copy`."""

from __future__ import annotations

import click

from sdk.cli.support.options import take_tags
from sdk.cli.support.output import format_option, print_done, print_json, say
from sdk.cli.support.session import open_client
from sdk.errors import InvalidInput


@click.command(name="copy")
@click.argument("ref", metavar="REF|NAME")
@click.argument("new")
@click.option("--all", "every", is_flag=True, help="Copy every version of the adapter NAME, oldest first.")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="KEY=VALUE",
    callback=take_tags,
    help="A tag to add to those of the version; repeatable.",
)
@click.option("--description", help="Instead of the version's own.")
@format_option
def copy_command(ref: str, new: str, every: bool, tags: dict[str, str], description: str | None, style: str) -> None:
    """Make the version that REF names a version of the adapter NEW too, with the same past.

    Nothing is sent: record, datasets and parents are the registry's own, and the lineage of the copy leads to the version.
    You must be allowed to read there, and to write where NEW is. Aliases, notes and approvals are not copied: move what
    serves users with `promote`. An adapter can't be renamed: copy all versions, move the aliases, archive the old versions.

    \b
    Examples:
      adapterctl copy code-review@production team/code-review
      adapterctl copy code-review team/code-review --all
    """
    if every and (tags or description is not None):
        raise InvalidInput("--all copies versions as they are; leave --tag and --description out", param="all")
    with open_client() as client:
        if not every:
            version = client.versions.copy(ref, new, tags=tags, description=description)
            document = version.as_dict() if style == "json" else {}
            print_done(style, document, version.ref, f"{version.ref} is a copy of {client.get(ref).ref}")
            return
        copies = client.versions.copy_all(ref, new)
        if style == "json":
            print_json([{"from": old, "ref": version.ref} for old, version in copies])
            return
        for old, version in copies:
            say(f"{version.ref} is a copy of {old}")
            click.echo(version.ref)
        say(f"the old versions stay; move their aliases with: adapterctl promote {new}@vN ALIAS")
