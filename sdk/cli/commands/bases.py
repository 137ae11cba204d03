"""`adapterctl base`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sdk.cli.completing.kinds import FOLDER, KNOWN_BASE
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import confirm, yes_option
from sdk.cli.support.output import (
    format_option,
    human_bytes,
    is_piped,
    print_done,
    print_made,
    print_one,
    say,
)
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.schemas.catalog import BaseView


@click.group(name="base", cls=CommandGroup)
def base_command() -> None:
    """Add and list bases."""


_namespace = click.option("--namespace", help="Whose base it is: a namespace, '-' for names without one, '*' for all.")
F = TypeVar("F", bound=Callable[..., Any])


def _whose(command: F) -> F:
    """Add what says which namespace's entry is meant; `--base-namespace` is what other commands call it."""
    for option in (
        click.option("--published", is_flag=True, help="The one that is published for all, as --namespace '*'."),
        click.option(
            "--namespace",
            "--base-namespace",
            "namespace",
            metavar="NAMESPACE",
            help="Whose base it is: a namespace, or '-' for names without one. [default: the only one that has it]",
        ),
    ):
        command = option(command)
    return command


def _space(namespace: str | None, published: bool) -> str | None:
    """Return the namespace whose entry is meant; "*" for what is published."""
    if published and namespace not in (None, "*"):
        raise click.UsageError("a base of a namespace is not the published one; give --namespace or --published")
    return "*" if published else namespace


@base_command.command(name="add")
@click.argument("folder", type=FOLDER)
@click.option("--id", "base_id", help="The base's name. [default: the folder's name]")
@click.option("--upload", is_flag=True, help="Also upload its files, for workers that can't see the folder.")
@_namespace
@format_option
def base_add(folder: str, base_id: str | None, upload: bool, namespace: str | None, style: str) -> None:
    """Register the base in FOLDER: fingerprint, config, tensor shapes.

    Without --namespace, it is published for all if the token is an admin's for all namespaces, which '*' needs.
    Otherwise it is for names without a namespace or, if the token may not write those, for its first namespace.

    \b
    Example:
      adapterctl base add ./SmolLM2-135M-Instruct --upload --namespace team
    """
    with open_client() as client:
        view = client.bases.add(folder, id=base_id, upload=upload, namespace=namespace)
    if base_id is not None and view.id != base_id:
        say(
            f"--id {base_id} was not used: these files are registered as {view.id}; "
            f"change that with: adapterctl base fix {view.id} --id {base_id}"
        )
    _show_named(view, style)


def _show_named(view: BaseView, style: str) -> None:
    """Print a base's id, with a warning if it named another base until now."""
    if view.replaces is not None:
        say(f"{view.id} named the base {view.replaces[:12]} until now, and names {view.fingerprint[:12]} from now on")
    print_made(style, view.model_dump(mode="json"), view.id, f"fingerprint {view.fingerprint}")


@base_command.command(name="fix")
@click.argument("name", type=KNOWN_BASE)
@_whose
@click.option("--id", "base_id", help="Its new id.")
@click.option("--location", help="Its location: file:///… or hf://ORG/NAME@COMMIT; '' for none.")
@click.option(
    "--forget-files", is_flag=True, help="Let its files be sent again with: adapterctl base add FOLDER --upload."
)
@format_option
def base_fix(
    name: str,
    namespace: str | None,
    published: bool,
    base_id: str | None,
    location: str | None,
    forget_files: bool,
    style: str,
) -> None:
    """Correct the id or location of the base NAME (an id or fingerprint) in a namespace. For admins.

    \b
    Example:
      adapterctl base fix 3f1c9a7e5b20 --id SmolLM2-135M-Instruct --namespace team
    """
    space = _space(namespace, published)
    with open_client() as client:
        view = client.bases.fix(name, namespace=space, id=base_id, location=location, forget_files=forget_files)
    _show_named(view, style)


@base_command.command(name="rm")
@click.argument("name", type=KNOWN_BASE)
@_whose
@yes_option
@format_option
def base_rm(name: str, namespace: str | None, published: bool, yes: bool, style: str) -> None:
    """Remove the base NAME (an id or fingerprint) from a namespace. For admins.

    Its versions stay, and waiting jobs that need it fail; its files go with the next `adapterctl gc`.

    \b
    Example:
      adapterctl base rm SmolLM2-135M-Instruct --namespace team --yes
    """
    space = _space(namespace, published)
    confirm(f"remove the base {name}, so that nobody can make versions over it any more?", yes=yes)
    with open_client() as client:
        client.bases.remove(name, namespace=space)
    print_done(
        style, {"base": name, "removed": True}, None, f"{name} is removed; its files go with the next: adapterctl gc"
    )


_BASES = Listing(
    ListColumn("id"),
    ListColumn("namespace", importance=6, usual="*"),
    ListColumn("fingerprint", importance=8),
    ListColumn("architecture", importance=4),
    ListColumn("size", "size_bytes", 5),
    ListColumn("facts", importance=2),
    ListColumn("created", "created_at", 3),
    ListColumn("revision", importance=0),
    ListColumn("location", importance=0),
    key="id",
)


@base_command.command(name="list")
@listed(_BASES)
def base_list(style: str) -> None:
    """List bases, newest first.

    \b
    Example:
      adapterctl base list
    """
    with open_client() as client:
        rows = [view.model_dump(mode="json", exclude={"config"}) for view in client.bases()]
    for row in rows:
        row["size"] = human_bytes(row["size_bytes"])
    _BASES.print(style, rows, empty="no bases yet; add one with: adapterctl base add FOLDER")


@base_command.command(name="show")
@click.argument("name", type=KNOWN_BASE)
@_whose
@format_option
def base_show(name: str, namespace: str | None, published: bool, style: str) -> None:
    """Show a base by id or fingerprint.

    Its facts are claimed by whoever registered it, hashed by a worker, or derived from its bytes by the registry.

    \b
    Example:
      adapterctl base show SmolLM2-135M-Instruct --format json
    """
    with open_client() as client:
        view = client.bases.get(name, base_namespace=_space(namespace, published))
    shown = view.model_dump(mode="json", exclude={"config", "size_bytes", "replaces"})
    # In a pipe fields, on a terminal the words of other records.
    names = {} if is_piped() else {"weights_digest": "weights", "created_at": "created"}
    facts = [*((names.get(name, name), value) for name, value in shown.items()), ("size", human_bytes(view.size_bytes))]
    print_one(style, view, view.fingerprint, lambda: print_facts(facts))
