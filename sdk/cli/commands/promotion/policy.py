"""`adapterctl policy`."""

from __future__ import annotations

from shlex import quote

import click

from sdk.cli.completing.kinds import ADAPTER, ALIAS, FILE
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import confirm, yes_option
from sdk.cli.support.output import filled, format_option, is_piped, print_done, print_json, print_one, say
from sdk.cli.support.policy_pages import asked_of, policy_lines
from sdk.cli.support.session import open_client
from sdk.schemas.policies import PolicyView


@click.group(name="policy", cls=CommandGroup)
def policy_command() -> None:
    """Say what must hold before an alias moves: scores, approvals, probes, signatures.

    A policy is for an adapter, for all of a namespace ('team/*'), or for all ('*'). Each that stands must hold.
    """


@policy_command.command(name="set")
@click.argument("scope", type=ADAPTER)
@click.argument("file", type=FILE)
@click.option("--expect", type=click.IntRange(0), metavar="N", help="Only if version N is in force now; 0 for none.")
@format_option
def policy_set(scope: str, file: str, expect: int | None, style: str) -> None:
    """Set the policy in the YAML file FILE for SCOPE: an adapter, 'NAMESPACE/*', or '*' for all.

    The file names the alias; with several documents, separated by ---, it sets several. Keys under signed_by may be paths of PEM
    files, beginning from the folder of FILE.

    \b
    Examples:
      adapterctl policy set code-review policy.yaml
      adapterctl policy set 'team/*' policy.yaml --expect 2
    """
    with open_client() as client:
        views = client.policies.set_all(scope, file, expect=expect)
    if style == "json":
        print_json(views)
        return
    for view in views:
        for line in _remarks(view) if style == "table" else []:
            say(line)
        click.echo(_key(view))


def _remarks(view: PolicyView) -> list[str]:
    asks = f"policy version {view.version} stands for {_key(view)}: {asked_of(view.policy)}"
    return [
        *filled(asks).splitlines(),
        *(line for each in view.loosened for line in filled(f"less than before: {each}", "! ").splitlines()),
        *(line for each in view.notes for line in filled(each, "! ").splitlines()),
    ]


def _key(view: PolicyView) -> str:
    return f"{view.scope}@{view.alias}"


@policy_command.command(name="show")
@click.argument("scope", type=ADAPTER)
@click.argument("alias", type=ALIAS, required=False)
@format_option
def policy_show(scope: str, alias: str | None, style: str) -> None:
    """Show the policies of SCOPE as YAML that `policy set` takes, for all aliases or ALIAS.

    What wider scopes ask is shown as comments.

    \b
    Examples:
      adapterctl policy show code-review production > policy.yaml
      adapterctl policy show 'team/*'
    """
    with open_client() as client:
        views = client.policies(scope, alias)
    if style == "table" and not views:
        say(
            f"no policy stands for {scope}{f'@{alias}' if alias else ''}; set one with: adapterctl policy set {scope} FILE"
        )
    print_one(style, views, map(_key, views), lambda: _print(scope, views))


def _print(scope: str, views: list[PolicyView]) -> None:
    for line in policy_lines(scope, views):
        click.echo(line)


_POLICIES = Listing(
    ListColumn("scope"),
    ListColumn("alias", importance=8),
    ListColumn("version", importance=6),
    ListColumn("asks", lambda view: asked_of(view.policy), 7),
    ListColumn("by", "created_by", 2),
    ListColumn("created", "created_at", 3),
    key=lambda view: _key(view),
)
_POLICY_VERSIONS = Listing(
    ListColumn("version"),
    ListColumn("asks", lambda view: asked_of(view.policy), 7),
    ListColumn("by", "created_by", 5),
    ListColumn("created", "created_at", 6),
    ListColumn("digest", importance=0),
    key="version",
)


@policy_command.command(name="list")
@listed(_POLICIES)
def policy_list(style: str) -> None:
    """List the policies that stand in all scopes.

    \b
    Example:
      adapterctl policy list
    """
    with open_client() as client:
        views = client.policies()
    _POLICIES.print(style, views, empty="no policy stands; set one with: adapterctl policy set NAME FILE")


@policy_command.command(name="history")
@click.argument("scope", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@listed(_POLICY_VERSIONS)
def policy_history(scope: str, alias: str, style: str) -> None:
    """List the versions of the policy of SCOPE for ALIAS, newest first, and how each asks for less than the one before.

    \b
    Example:
      adapterctl policy history code-review production
    """
    with open_client() as client:
        views = client.policies.history(scope, alias)
    _POLICY_VERSIONS.print(style, views, empty="there is no policy yet")
    if style == "table" and not is_piped():
        for view in views:
            for each in view.loosened:
                click.echo(filled(f"version {view.version} asks for less: {each}", "! "))


@policy_command.command(name="rm")
@click.argument("scope", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@yes_option
@format_option
def policy_rm(scope: str, alias: str, yes: bool, style: str) -> None:
    """Remove the policy of SCOPE for ALIAS; its history stays, and policies of wider scopes hold on.

    \b
    Example:
      adapterctl policy rm code-review production --yes
    """
    confirm(f"remove the policy of {scope} for {alias}?", yes=yes)
    with open_client() as client:
        client.policies.remove(scope, alias)
    now = f"the policy of {scope} for {alias} is removed; its versions are listed by:"
    history = f"adapterctl policy history {quote(scope)} {alias}"
    print_done(style, {"scope": scope, "alias": alias, "removed": True}, None, now, history)
