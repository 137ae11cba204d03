"""`adapterctl decisions`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sdk.cli.completing.kinds import ADAPTER, ALIAS
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.decision_pages import (
    count_of,
    document_of,
    facts_of,
    markdown_page,
    missing_lines,
    rule_lines,
    title_of,
)
from sdk.cli.support.listing_group import ListingGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import print_one, writable
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.schemas.decisions import Decision

F = TypeVar("F", bound=Callable[..., Any])

_COLOURS = {"passed": "green", "failed": "red", "unknown": "yellow"}


def page_format_option(command: F) -> F:
    """Add `--format table|json|quiet|markdown`."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(["table", "json", "quiet", "markdown"]),
        default="table",
        show_default=True,
        help="json: one document on stdout; quiet: the bare id; markdown: a page.",
    )(command)


_DECISIONS = Listing(
    ListColumn("id"),
    ListColumn("to", lambda decision: None if decision.number is None else f"v{decision.number}", 8),
    ListColumn("alias", importance=6),
    ListColumn("outcome", lambda decision: decision.outcome.replace("_", " "), 7),
    ListColumn("moved", importance=4),
    ListColumn("rules", lambda decision: count_of(decision), 5),
    ListColumn("by", "decided_by", 2),
    ListColumn("time", "decided_at", 3),
    ListColumn("reason", importance=1),
    key="id",
)


@click.group(name="decisions", cls=ListingGroup, subcommand_metavar="NAME | COMMAND [ARGS]...")
def decisions_command() -> None:
    """List what was decided about aliases of the adapter NAME, or show a decision.

    \b
    Examples:
      adapterctl decisions code-review
      adapterctl decisions show 3f1c2a9b7d20
    """


@decisions_command.command(name="list")
@click.argument("name", type=ADAPTER)
@click.option("--alias", type=ALIAS, metavar="ALIAS", help="Only those about this alias.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@listed(_DECISIONS)
def decisions_list(name: str, alias: str | None, limit: int, style: str) -> None:
    """List decisions about aliases of the adapter NAME, newest first. RULES: how many of them passed.

    \b
    Example:
      adapterctl decisions list code-review --alias production
    """
    with open_client() as client:
        decisions = client.decisions(name, alias, limit=limit)
    empty = f"nothing was decided yet; ask with: adapterctl promote {name}@vN {alias or 'production'} --check"
    _DECISIONS.print(style, decisions, empty=empty, documents=map(document_of, decisions))


@decisions_command.command(name="show")
@click.argument("decision_id", metavar="ID")
@page_format_option
def decisions_show(decision_id: str, style: str) -> None:
    """Show a decision: each rule with what was found, what did not pass first.

    \b
    Examples:
      adapterctl decisions show 3f1c2a9b7d20
      adapterctl decisions show 3f1c2a9b7d20 --format markdown > decision.md
    """
    with open_client() as client:
        decision = client.decisions.get(decision_id)
    print_decision(decision, style)


def print_decision(decision: Decision, style: str) -> None:
    """Print a decision."""
    if style == "markdown":
        click.echo(writable(markdown_page(decision)), nl=False)
    else:
        print_one(style, document_of(decision), decision.id, lambda: _print(decision))


def _print(decision: Decision) -> None:
    click.echo(title_of(decision))
    click.echo()
    print_facts(facts_of(decision))
    for lines in (list(map(_coloured, rule_lines(decision))), [] if decision.moved else list(missing_lines(decision))):
        if lines:
            click.echo("\n" + "\n".join(lines))


def _coloured(text: str) -> str:
    outcome, _, rest = text.partition(" ")
    if not sys.stdout.isatty() or outcome not in _COLOURS:
        return text
    return f"{click.style(outcome, fg=_COLOURS[outcome])} {rest}"
