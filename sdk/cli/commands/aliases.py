"""`adapterctl alias`."""

from __future__ import annotations

import click

from sdk.cli.commands.promotion.promote import moving_options, print_moved
from sdk.cli.completing.kinds import ADAPTER, ALIAS, NUMBER
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import confirm, yes_option
from sdk.cli.support.output import format_option, print_done
from sdk.cli.support.session import open_client


@click.group(name="alias", cls=CommandGroup)
def alias_command() -> None:
    """Point names like 'production' at versions."""


@alias_command.command(name="set")
@click.argument("name", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@click.argument("version", type=NUMBER, metavar="vN")
@moving_options
@format_option
def alias_set(name: str, alias: str, version: str, expect: str | None, reason: str, override: bool, style: str) -> None:
    """Point ALIAS of the adapter NAME at the version vN, if its policies hold; print the exact ref.

    \b
    Example:
      adapterctl alias set code-review production v3 --expect v2
    """
    with open_client() as client:
        moved = client.set_alias(name, alias, version, expect=expect, reason=reason, override=override)
    print_moved(moved, style)


_ALIASES = Listing(
    ListColumn("alias"),
    ListColumn("ref", importance=8),
    ListColumn("protected", importance=5),
    ListColumn("by", "moved_by", 3),
    ListColumn("time", "moved_at", 4),
    ListColumn("decision", importance=0),
    key="alias",
)


@alias_command.command(name="list")
@click.argument("name", type=ADAPTER)
@listed(_ALIASES)
def alias_list(name: str, style: str) -> None:
    """List the aliases of the adapter NAME, and whether only promoters may move them.

    \b
    Example:
      adapterctl alias list code-review
    """
    with open_client() as client:
        aliases = client.aliases(name)
    _ALIASES.print(style, aliases, empty=f"no aliases; set one with: adapterctl alias set {name} production vN")


_MOVES = Listing(
    ListColumn("alias"),
    ListColumn("from", lambda move: _version(move.from_number), 7),
    ListColumn("to", lambda move: _version(move.to_number), 8),
    ListColumn("kind", lambda move: f"{move.kind}, overridden" if move.outcome == "overridden" else move.kind, 5),
    ListColumn("by", "moved_by", 4),
    ListColumn("time", "moved_at", 6),
    ListColumn("reason", importance=3),
    ListColumn("decision", importance=0),
    key=lambda move: _version(move.to_number) or "-",
)


@alias_command.command(name="history")
@click.argument("name", type=ADAPTER)
@click.argument("alias", type=ALIAS, required=False)
@listed(_MOVES)
def alias_history(name: str, alias: str | None, style: str) -> None:
    """List the moves of the adapter NAME's aliases, or only of ALIAS, newest first.

    \b
    Example:
      adapterctl alias history code-review production
    """
    with open_client() as client:
        moves = client.aliases.history(name, alias)
    empty = "no alias was ever set" if alias is None else f"the alias {alias} was never set"
    _MOVES.print(style, moves, empty=empty)


def _version(number: int | None) -> str | None:
    return None if number is None else f"v{number}"


@alias_command.command(name="rm")
@click.argument("name", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@moving_options
@yes_option
@format_option
def alias_rm(name: str, alias: str, expect: str | None, reason: str, override: bool, yes: bool, style: str) -> None:
    """Remove ALIAS of the adapter NAME; its versions and its history stay.

    \b
    Example:
      adapterctl alias rm code-review staging --expect v2 --yes
    """
    confirm(f"remove {name}@{alias}?", yes=yes)
    with open_client() as client:
        client.aliases.remove(name, alias, expect=expect, reason=reason, override=override)
    again = f"{name}@{alias} is removed; set it again with: adapterctl alias set {name} {alias} vN"
    print_done(style, {"adapter": name, "alias": alias, "removed": True}, None, again)


@alias_command.command(name="protect")
@click.argument("scope", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@format_option
def alias_protect(scope: str, alias: str, style: str) -> None:
    """Let only promoters and admins move ALIAS in SCOPE: an adapter, 'NAMESPACE/*', or '*' for all.

    \b
    Examples:
      adapterctl alias protect code-review production
      adapterctl alias protect 'team/*' production
    """
    with open_client() as client:
        view = client.aliases.protect(scope, alias)
    now = f"only promoters and admins can move {scope}@{alias} from now on"
    print_done(style, view.model_dump(mode="json"), f"{scope}@{alias}", now)


@alias_command.command(name="unprotect")
@click.argument("scope", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@format_option
def alias_unprotect(scope: str, alias: str, style: str) -> None:
    """Let every writer move ALIAS in SCOPE again.

    \b
    Example:
      adapterctl alias unprotect 'team/*' production
    """
    with open_client() as client:
        client.aliases.unprotect(scope, alias)
    now = f"every writer can move {scope}@{alias} again, unless a wider scope protects it"
    print_done(style, {"scope": scope, "alias": alias, "protected": False}, None, now)


_PROTECTED = Listing(
    ListColumn("scope"),
    ListColumn("alias"),
    ListColumn("by", "created_by", 3),
    ListColumn("created", "created_at", 4),
    key=lambda one: f"{one.scope}@{one.alias}",
)


@alias_command.command(name="protected")
@listed(_PROTECTED)
def alias_protected(style: str) -> None:
    """List the aliases that only promoters and admins may move.

    \b
    Example:
      adapterctl alias protected
    """
    with open_client() as client:
        protected = client.aliases.protected()
    empty = "no alias is protected; protect one with: adapterctl alias protect NAME production"
    _PROTECTED.print(style, protected, empty=empty)
