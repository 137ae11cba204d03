"""`adapterctl approve`, `disapprove`, `approvals`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sdk.cli.completing.kinds import ADAPTER, ALIAS, REF
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import ListingGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import format_option, print_done, print_made
from sdk.cli.support.session import open_client
from sdk.schemas.approvals import ApprovalKind, ApprovalView
from sdk.schemas.promotion_words import given, notes_on

if TYPE_CHECKING:
    from sdk.client import Client

_for = click.option("--for", "alias", type=ALIAS, required=True, metavar="ALIAS", help="The alias that it is about.")
_reason = click.option("--reason", default="", help="The reason; kept with it.")
_withdraw = click.option("--withdraw", is_flag=True, help="Withdraw the one that you have given.")


@click.command(name="approve")
@click.argument("ref", type=REF)
@_for
@_reason
@_withdraw
@format_option
def approve_command(ref: str, alias: str, reason: str, withdraw: bool, style: str) -> None:
    """Approve of the version that REF names now for an alias; print the approval's id.

    It counts for its bytes under the policies that stand now. Whoever trained or pushed the version can't approve of it, nor
    can whoever moves the alias.

    \b
    Examples:
      adapterctl approve code-review@v3 --for production --reason 'read 40 rows'
      adapterctl approve code-review@v3 --for production --withdraw
    """
    with open_client() as client:
        if withdraw:
            _take_back(client, "approve", ref, alias, style)
            return
        view = client.approvals.approve(ref, alias, reason=reason)
    _given(view, style, reason)


@click.command(name="disapprove")
@click.argument("ref", type=REF)
@_for
@_reason
@_withdraw
@format_option
def disapprove_command(ref: str, alias: str, reason: str, withdraw: bool, style: str) -> None:
    """Keep an alias from moving to the version that REF names now, until you withdraw this; print its id.

    \b
    Examples:
      adapterctl disapprove code-review@v3 --for production --reason 'leaks names'
      adapterctl disapprove code-review@v3 --for production --withdraw
    """
    with open_client() as client:
        if withdraw:
            _take_back(client, "disapprove", ref, alias, style)
            return
        view = client.approvals.disapprove(ref, alias, reason=reason)
    _given(view, style, reason)


def _given(view: ApprovalView, style: str, reason: str) -> None:
    back = f"withdraw it with: adapterctl approvals withdraw {view.id}"
    print_made(style, view.model_dump(mode="json"), view.id, given(view), *notes_on(view, reason), back)


def _take_back(client: Client, kind: ApprovalKind, ref: str, alias: str, style: str) -> None:
    _withdrawn(client.approvals.withdraw(client.approvals.given_by_you(kind, ref, alias).id), style)


def _withdrawn(view: ApprovalView, style: str) -> None:
    what = "approval" if view.kind == "approve" else "veto"
    print_done(style, view.model_dump(mode="json"), view.id, f"the {what} of {view.ref} for {view.alias} is withdrawn")


@click.group(name="approvals", cls=ListingGroup, subcommand_metavar="NAME | COMMAND [ARGS]...")
def approvals_command() -> None:
    """List who approved of which versions of the adapter NAME, or withdraw an approval.

    \b
    Example:
      adapterctl approvals code-review
    """


_APPROVALS = Listing(
    ListColumn("id"),
    ListColumn("version", lambda view: view.ref.rpartition("@")[2], 8),
    ListColumn("alias", importance=6),
    ListColumn("kind", importance=7),
    ListColumn("counts", lambda view: view.void or "yes", 5),
    ListColumn("by", "created_by", 3),
    ListColumn("time", "created_at", 2),
    ListColumn("reason", importance=1),
    ListColumn("ref", importance=0),
    key="id",
)


@approvals_command.command(name="list")
@click.argument("name", type=ADAPTER)
@click.option("--for", "alias", type=ALIAS, metavar="ALIAS", help="Only those for this alias.")
@listed(_APPROVALS)
def approvals_list(name: str, alias: str | None, style: str) -> None:
    """List approvals and vetoes of the adapter NAME, newest first, and whether each counts.

    \b
    Example:
      adapterctl approvals list code-review --for production
    """
    with open_client() as client:
        views = client.approvals(name, alias)
    empty = f"nobody has approved yet; approve with: adapterctl approve {name}@vN --for {alias or 'production'}"
    _APPROVALS.print(style, views, empty=empty)


@approvals_command.command(name="withdraw")
@click.argument("approval_id", metavar="ID")
@format_option
def approvals_withdraw(approval_id: str, style: str) -> None:
    """Withdraw an approval or a veto of your own; it stays in the list.

    \b
    Example:
      adapterctl approvals withdraw 3f1c2a9b7d20
    """
    with open_client() as client:
        view = client.approvals.withdraw(approval_id)
    _withdrawn(view, style)
