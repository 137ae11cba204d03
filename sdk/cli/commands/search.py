"""`adapterctl search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from sdk.cli.support.options import scores_of_option
from sdk.cli.support.output import format_option, print_rows
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.schemas.catalog import SortKey, VersionBrief


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
@format_option
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
        versions = client.search(filter_, sort=cast("SortKey", sort), limit=limit, scores_of=scores_of)
    found = [version.brief for version in versions]
    # Whose scores they were found by is worth a column where it may be others'.
    whose = ["scores_of"] if scores_of is not None and any(brief.scores_of for brief in found) else []
    columns = ["ref", "base", "rank", "method", *whose, "aliases", "created"]
    print_rows(style, found, columns, key="ref", empty="no version matches", shown=_shown)


def _shown(brief: VersionBrief) -> dict[str, Any]:
    method = "merged" if brief.kind == "merged" else brief.method
    return {"base": brief.base.id, "rank": brief.lora.rank, "method": method, "created": brief.created_at.isoformat()}
