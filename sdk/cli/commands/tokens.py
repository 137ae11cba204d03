"""`adapterctl token`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import get_args

import click

from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import confirm, yes_option
from sdk.cli.support.output import format_option, print_done, print_json, say
from sdk.cli.support.session import open_client
from sdk.errors import InvalidInput
from sdk.schemas.access import GrantView, RoleName, TokenView

ROLES: tuple[str, ...] = get_args(RoleName)


@click.group(name="token", cls=CommandGroup)
def token_command() -> None:
    """Create, list and revoke tokens."""


@token_command.command(name="create")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), help="What the token allows in each --namespace.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="Where: a namespace, '-' for names without one, '*' for all; repeatable. [default: *]",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="NS=ROLE",
    help="A namespace with its own role; repeatable.",
)
@click.option("--days", type=click.IntRange(1, 3650), help="Expire after this many days. [default: never]")
@click.option("--replace", is_flag=True, help="Replace the token in use that has this name.")
@click.option(
    "--overlap-hours",
    type=click.IntRange(0, 720),
    default=0,
    show_default=True,
    help="Let the replaced token work this much longer.",
)
@format_option
def token_create(
    name: str,
    role: str | None,
    namespaces: tuple[str, ...],
    grants: tuple[str, ...],
    days: int | None,
    replace: bool,
    overlap_hours: int,
    style: str,
) -> None:
    """Create a token for NAME, who is shown in histories; print its secret, which can't be shown again.

    Two tokens in use with a role in the same namespace must have different names.

    A reader reads; a writer also pushes, submits jobs, moves aliases and archives; a promoter also moves
    protected aliases; a worker takes jobs and nothing else; a server is a gateway, which reads and checks the
    tokens of who asks it; an admin does everything.

    \b
    Examples:
      adapterctl token create ci --role writer --namespace team --days 90 > token
      adapterctl token create ana --grant team=promoter --grant -=reader
      adapterctl token create gpu-1 --role worker
      adapterctl token create gateway --role server --namespace team
      adapterctl token create ci --role writer --namespace team --replace
    """
    wanted = _wanted(role, namespaces, grants)
    if overlap_hours and not replace:
        raise InvalidInput(
            "--overlap-hours says how long the replaced token still works; add --replace", param="overlap_hours"
        )
    with open_client() as client:
        made = client.tokens.create(name, wanted, days=days, replace=replace, overlap_hours=overlap_hours)
    until = "" if made.expires_at is None else f", until {made.expires_at:%Y-%m-%d %H:%M} UTC"
    what = f"token {made.id} for {made.name}: {in_words(made.grants)}{until}"
    print_done(style, made.model_dump(mode="json"), made.secret, what, "keep the secret; it is not shown again:")


def _wanted(role: str | None, namespaces: Sequence[str], grants: Sequence[str]) -> dict[str, str]:
    """Return namespace to role. Raises InvalidInput."""
    if not grants:
        if role is None:
            raise InvalidInput("a token needs a role; give --role ROLE, or --grant NS=ROLE", param="role")
        return dict.fromkeys(namespaces or ["*"], role)
    if role is not None or namespaces:
        raise InvalidInput("--grant gives both role and namespace; leave out --role and --namespace", param="grant")
    wanted: dict[str, str] = {}
    for grant in grants:
        namespace, _, given = grant.rpartition("=")
        if not namespace or given not in ROLES:
            raise InvalidInput(
                f"{grant!a} is not a grant; write NAMESPACE=ROLE with a role of: {', '.join(ROLES)}", param="grant"
            )
        if namespace in wanted:
            raise InvalidInput(f"--grant names {namespace!a} twice; give it one role", param="grant")
        wanted[namespace] = given
    return wanted


_TOKENS = Listing(
    ListColumn("id"),
    ListColumn("name", importance=8),
    ListColumn("grants", lambda row: ", ".join(f"{one['namespace']}={one['role']}" for one in row["grants"]), 6),
    ListColumn("state", importance=7),
    ListColumn("expires", "expires_at", 5, none="never", always=True),
    ListColumn("created", "created_at", 2),
    ListColumn("by", "created_by", 1),
    key="id",
)
_LOST = Listing(ListColumn("token"), ListColumn("name"), ListColumn("role"), ListColumn("revoked"), key="token")


@token_command.command(name="list")
@listed(_TOKENS)
def token_list(style: str) -> None:
    """List the tokens that you administer, newest first, without their secrets.

    \b
    Example:
      adapterctl token list
    """
    with open_client() as client:
        tokens = client.tokens()
    rows = [{**token.model_dump(mode="json"), "state": _state(token)} for token in tokens]
    _TOKENS.print(style, rows, empty="no tokens; make one with: adapterctl token create NAME --role ROLE")


def _state(token: TokenView) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at < datetime.now(UTC) else "active"


@token_command.command(name="revoke")
@click.argument("token_id", metavar="ID", required=False)
@click.option("--namespace", help="Instead of one token: take away every token's role in this namespace.")
@yes_option
@listed(_LOST)
def token_revoke(token_id: str | None, namespace: str | None, yes: bool, style: str) -> None:
    """Revoke the token ID, within a second on every server; repeating it is harmless.

    With --namespace every token loses the role that it has there, and those without another role are revoked. Your own
    keeps its role, and so do tokens with a role in all namespaces; both are reported.

    \b
    Examples:
      adapterctl token revoke 9f86d081884c7d65
      adapterctl token revoke --namespace team --yes
    """
    if (token_id is None) == (namespace is None):
        raise InvalidInput("say which: a token's ID, or --namespace NAMESPACE for all of its tokens", param="token_id")
    if namespace is not None:
        _revoke_namespace(namespace, yes, style)
        return
    assert token_id is not None
    with open_client() as client:
        token = client.tokens.revoke(token_id)
    print_done(style, token.model_dump(mode="json"), token.id, f"the token of {token.name} no longer works")


def _revoke_namespace(namespace: str, yes: bool, style: str) -> None:
    confirm(f"Take the roles in {namespace} from every token?", yes=yes)
    with open_client() as client:
        done = client.tokens.revoke_namespace(namespace)
    if style == "json":
        print_json(done)
        return
    _LOST.print(style, done.lost, empty=f"no token had a role in {namespace}")
    if done.kept is not None:
        say(f"your own token keeps its role; when you are done, run: adapterctl token revoke {done.kept}")
    if done.everywhere:
        say(f"tokens with a role in all namespaces still work here: {done.everywhere}; see: adapterctl token list")


def in_words(grants: Sequence[GrantView]) -> str:
    """Return for example "writer in team, reader in -"; "admin everywhere" for all namespaces."""
    named_first = sorted(grants, key=lambda grant: (grant.namespace == "-", grant.namespace))
    return ", ".join(
        f"{grant.role} everywhere" if grant.namespace == "*" else f"{grant.role} in {grant.namespace}"
        for grant in named_first
    )
