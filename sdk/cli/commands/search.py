"""`adapterctl search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import scores_of_option
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.schemas.catalog import SortKey


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
    type=click.Choice(["-created", "created", "name", "rank", "-rank"]),
    default="-created",
    show_default=True,
    help="A leading - puts the newest or highest first.",
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
      adapterctl search 'eval[heldout.jsonl].loss < 1.5' --scores-of audit
    """
    with open_client() as client:
        found = client.search(filter_, sort=cast("SortKey", sort), limit=limit, scores_of=scores_of)
    _FOUND.print(style, found, empty="no version matches")
