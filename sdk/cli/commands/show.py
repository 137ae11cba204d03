"""`adapterctl show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import REF
from sdk.cli.support.columns import CellForm, ListColumn, written
from sdk.cli.support.dataset_names import ShownDatasets
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import format_option, human_bytes, is_piped, local_time, print_json
from sdk.cli.support.records import print_facts, print_gap, print_listing
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.objects import Version


@click.command(name="show")
@click.argument("ref", type=REF)
@click.option(
    "--rows", is_flag=True, help="Show the first rows that it was trained on instead, as its training saw them."
)
@format_option
def show_command(ref: str, rows: bool, style: str) -> None:
    """Show the version that REF names, or a sweep's member, sweep:ID/N: base, configuration, data, training, scores, files.

    What another registry recorded of a version that was pushed here is shown as claimed: nobody here has checked it.

    As JSON it also says, under `compat`, which inference engines can serve it: see `adapterctl compat`.

    With --rows: the first rows of its training, for those who may read its dataset: rendered and cut as its steps got them, in the
    order of these. The parts that the loss was computed on are green on a terminal, and in double brackets elsewhere.

    \b
    Examples:
      adapterctl show code-review@v3
      adapterctl show code-review@production --format json | jq .base.fingerprint
      adapterctl show code-review@v3 --rows
    """

    with open_client() as client:
        if rows:
            from sdk.cli.support.training_rows_pages import print_training_rows

            print_training_rows(client.versions.training_rows(ref), style)
            return
        version = client.get(ref)
        if style == "json":
            from sdk.examining.engine_compatibility import by_engine

            print_json({**version.as_dict(), "compat": by_engine(client, version)})
        elif style == "quiet":
            click.echo(version.ref)
        else:
            _print(client, version)


def _print(client: Client, version: Version) -> None:
    # Not for `show --rows`, `--quiet` and JSON.
    from sdk.cli.support.scores import score_listing, score_names
    from sdk.schemas.version_facts import facts_of

    evaluations, data = version.evaluations, version.info.dataset
    names = ShownDatasets(client, [*(one.dataset for one in evaluations), *(() if data is None else data.digests)])
    writes: dict[str, Any] = {"size": lambda count: f"{count:.0f} B", "at": written} if is_piped() else {}
    writes = {"size": human_bytes, "at": local_time, "named": names.of, **writes}
    print_facts(facts_of(version.info, version.norms, **writes))
    if (claims := version.claimed) is not None:
        from sdk.schemas.claimed_facts import claimed_facts

        print_gap()
        print_facts(claimed_facts(claims, named=names.of))
    if evaluations:
        print_gap()
        scores = score_names(one.metrics for one in evaluations)
        print_listing("scores", score_listing(scores, names), sorted(evaluations, key=lambda one: one.created_at)[::-1])
    print_gap()
    print_listing("files", _FILES, version.info.files)


_FILES = Listing(
    ListColumn("path", form=CellForm.NAME),
    ListColumn("size", "size_bytes", 8),
    ListColumn("digest", "sha256", 7),
    key="path",
)
