"""`adapterctl sweep list|show|pause|go|cancel`."""

from __future__ import annotations

import sys

import click

from sdk.cli.commands.sweep.watch import print_result, watch_sweep
from sdk.cli.completing.kinds import SWEEP
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import (
    format_option,
    human_duration,
    is_piped,
    print_made,
    print_one,
    say,
)
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.cli.support.sweep_pages import (
    document_of,
    member_table,
    picture_lines,
    print_sweep_fields,
    said_of,
    setting_table,
    settings_said,
)
from sdk.nouns.sweeps import winner_ref
from sdk.schemas.sweeps import SweepState, SweepView

_SWEEPS = Listing(
    ListColumn("id"),
    ListColumn("adapter", importance=8),
    ListColumn("state", importance=7),
    ListColumn("members", lambda view: _done(view), 5),
    ListColumn("varies", lambda view: settings_said(view), 4),
    ListColumn("created", "created_at", 3),
    ListColumn("winner", lambda view: winner_ref(view), 6),
    ListColumn("by", "created_by", 0),
    key="id",
)


@click.command(name="list")
@click.option("--state", type=click.Choice([state.value for state in SweepState]))
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@listed(_SWEEPS)
def sweep_list(state: str | None, limit: int, style: str) -> None:
    """List sweeps, newest first: what varies, and how many members have ended.

    \b
    Example:
      adapterctl sweep list --state running
    """
    with open_client() as client:
        views = [sweep.view for sweep in client.sweeps(state=state, limit=limit)]
    documents = (
        view.model_dump(mode="json", exclude={"members", "verdict"}) | {"winner": winner_ref(view)} for view in views
    )
    empty = (
        "no sweeps yet; begin one with: adapterctl sweep NAME" if state is None else "no sweep matches these filters"
    )
    _SWEEPS.print(style, views, empty=empty, documents=documents)


def _done(view: SweepView) -> str:
    done = sum(count for state, count in view.counts.items() if state in ("succeeded", "failed", "cancelled"))
    return f"{done}/{view.most_members or sum(view.counts.values())}"


@click.command(name="show")
@click.argument("sweep_id", type=SWEEP, metavar="SWEEP")
@click.option("--members", is_flag=True, help="Also each member, with its job.")
@click.option("--watch", is_flag=True, help="Wait until it has ended, as `sweep NAME` does.")
@format_option
def sweep_show(sweep_id: str, members: bool, watch: bool, style: str) -> None:
    """Show a sweep: each setting with its score, compared with the best, and what follows from them.

    LOSS is the mean over seeds, with its standard error. WORSE BY is the interval of the difference from the best. VERDICT
    is "worse" or "as good" only where that is shown; otherwise these rows and seeds don't tell the two apart.

    \b
    Examples:
      adapterctl sweep show 3f1c2a9b7d20
      adapterctl sweep show 3f1c2a9b7d20 --watch
    """
    with open_client() as client:
        view = client.sweeps.get(sweep_id).view
        if watch:
            view = watch_sweep(client, view)
            print_result(view, style)
            return
    print_one(style, document_of(view), winner_ref(view) or view.id, lambda: _print(view, members=members))


def _print(view: SweepView, *, members: bool) -> None:
    request = view.request
    facts = [
        ("id", view.id),
        ("adapter", view.adapter),
        ("state", view.state.value),
        ("varies", settings_said(view)),
        ("sample", request.sample if request.trials is None else f"{request.sample}, {request.trials} trials"),
        ("stop early", None if request.stop_early == "none" else request.stop_early),
        ("members", ", ".join(f"{count} {state}" for state, count in sorted(view.counts.items()))),
        ("trained", human_duration(view.train_s)),
        ("winner", winner_ref(view)),
        ("by", view.created_by),
        ("created", view.created_at.isoformat()),
    ]
    print_facts([(name, value) for name, value in facts if value])
    if is_piped():
        print_sweep_fields(view)
        return
    if view.members:
        click.echo(f"\n{setting_table(view)}")
    if members or (view.members and view.verdict is None):
        click.echo(f"\n{member_table(view)}")
    if said := list(said_of(view)):
        click.echo("\n" + "\n".join(said))
    if lines := picture_lines(view, sys.stdout):
        click.echo("\n" + "\n".join(lines))
    if view.state not in (SweepState.ENDED, SweepState.CANCELLED):
        say(f"watch it: adapterctl sweep show {view.id} --watch")


@click.command(name="pause")
@click.argument("sweep_id", type=SWEEP, metavar="SWEEP")
@format_option
def sweep_pause(sweep_id: str, style: str) -> None:
    """Begin no further members of a sweep; those that run go on.

    \b
    Example:
      adapterctl sweep pause 3f1c2a9b7d20
    """
    with open_client() as client:
        view = client.sweeps.get(sweep_id).pause().view
    print_made(style, _standing(view), view.state.value, f"let it go on: adapterctl sweep go {view.id}")


@click.command(name="go")
@click.argument("sweep_id", type=SWEEP, metavar="SWEEP")
@format_option
def sweep_go(sweep_id: str, style: str) -> None:
    """Let a paused sweep go on.

    \b
    Example:
      adapterctl sweep go 3f1c2a9b7d20
    """
    with open_client() as client:
        view = client.sweeps.get(sweep_id).go().view
    print_made(style, _standing(view), view.state.value, f"watch it: adapterctl sweep show {view.id} --watch")


@click.command(name="cancel")
@click.argument("sweep_id", type=SWEEP, metavar="SWEEP")
@format_option
def sweep_cancel(sweep_id: str, style: str) -> None:
    """Cancel a sweep, and its members with it; running ones stop within seconds.

    \b
    Example:
      adapterctl sweep cancel 3f1c2a9b7d20
    """
    with open_client() as client:
        view = client.sweeps.get(sweep_id).cancel().view
    print_made(style, _standing(view), view.state.value)


def _standing(view: SweepView) -> dict[str, object]:
    return {"sweep": view.adapter, "id": view.id, "state": view.state.value}
