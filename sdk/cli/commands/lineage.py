"""`adapterctl lineage`."""

from __future__ import annotations

import click

from sdk.cli.support.base_options import whose_base_options
from sdk.cli.support.lineage_graph import dot, tree
from sdk.cli.support.output import fit, format_option, print_json, say
from sdk.cli.support.session import open_client
from sdk.schemas.lineage import Direction, Lineage


@click.command(name="lineage")
@click.argument("of", metavar="REF")
@whose_base_options
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it.")
@click.option("--depth", type=click.IntRange(1, 32), default=8, show_default=True, help="How many steps to follow.")
@click.option("--dot", "as_dot", is_flag=True, help="Print a document for Graphviz.")
@format_option
def lineage_command(
    of: str,
    base_namespace: str | None,
    published: bool | None,
    up: bool,
    down: bool,
    depth: int,
    as_dot: bool,
    style: str,
) -> None:
    """Draw what the version REF was made from, and what was made from it: base, data, job, parents, merges, scores.

    REF may also be base:NAME, for everything trained over a base, or data:NAME, for everything that used a dataset.

    \b
    Examples:
      adapterctl lineage code-review@v3
      adapterctl lineage base:SmolLM2-135M-Instruct --depth 1
      adapterctl lineage data:reviews.jsonl --dot > reviews.dot
    """
    if as_dot and style != "table":
        raise click.UsageError("--dot is its own format; leave --format out")
    direction: Direction = "both" if up == down else "up" if up else "down"
    with open_client() as client:
        found = client.lineage(
            of, direction=direction, depth=depth, base_namespace=base_namespace, published=bool(published)
        )
    if as_dot:
        click.echo(dot(found))
    elif style == "json":
        print_json(found.model_dump(mode="json"))
    elif style == "quiet":
        for node in found.nodes:
            click.echo(node.key)
    else:
        for line in tree(found):
            click.echo(fit(line))
    _say_what_is_missing(found)


def _say_what_is_missing(found: Lineage) -> None:
    if found.truncated:
        say(
            f"there are more than the {len(found.nodes)} nodes shown; narrow the graph with --up, --down or a smaller --depth"
        )
    elif found.unfollowed and found.depth < 32:
        versions = "one version was" if found.unfollowed == 1 else f"{found.unfollowed} versions were"
        say(f"{versions} not followed beyond the last step; go further with --depth {min(32, found.depth * 2)}")
