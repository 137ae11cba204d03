"""`adapterctl search`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sdk.cli.support.columns import ListColumn, measured
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import scores_of_option
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    pass


_FOUND = Listing(
    ListColumn("ref"),
    ListColumn("scores of", importance=8),
    ListColumn("aliases", importance=7),
    ListColumn("eval loss", "metrics.eval_loss", 5),
    ListColumn("rank", "lora.rank", 6),
    ListColumn("method", lambda brief: "merged" if brief.kind == "merged" else brief.method, 3),
    ListColumn("base", "base.id", 4),
    ListColumn("created", "created_at", 2),
    ListColumn("by", "created_by", 1),
    ListColumn("kind", importance=0),
    ListColumn("state", importance=0),
    ListColumn("digest", importance=0),
    key="ref",
)


@click.command(name="search")
@click.argument("filter_", metavar="[FILTER]", default="")
@click.option(
    "--sort",
    metavar="ORDER",
    default="-created",
    show_default=True,
    help="created, name, rank, or a score, eval[DATASET].METRIC: the best first. With a leading -, the newest or highest "
    "first, and of a score the worst.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most this many. [default: all]")
@scores_of_option
@listed(_FOUND)
def search_command(filter_: str, sort: str, limit: int | None, scores_of: str | None, style: str) -> None:
    """Find the versions that match FILTER; without one, every ready version.

    FILTER is one argument: comparisons of name, namespace, base, base.fingerprint, rank, alpha, number,
    method, target, state, alias, author, created, digest, dataset, kind, tag[KEY] and eval[DATASET].METRIC,
    joined by and, or, not and brackets. Scores are those that a version's own namespace made.

    \b
    Examples:
      adapterctl search 'base = SmolLM2-135M-Instruct and rank >= 8'
      adapterctl search 'name ~ team/* and not alias = production' --sort name
      adapterctl search 'eval[heldout.jsonl].loss < 1.5' --limit 10 --format json
      adapterctl search 'rank <= 16' --sort 'eval[heldout.jsonl].loss' --limit 5
      adapterctl search 'eval[heldout.jsonl].loss < 1.5' --scores-of audit
    """
    with open_client() as client:
        found = [one.brief for one in client.search(filter_, sort=sort, limit=limit, scores_of=scores_of)]
    listing = _FOUND
    if sort.removeprefix("-").startswith("eval["):
        listing = _FOUND.with_columns(measured(sort.rpartition("].")[2], lambda brief: brief.score), before="aliases")
    listing.print(style, found, empty="no version matches")
