"""`adapterctl show`, `list`, `versions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sdk.cli.completing.kinds import ADAPTER, REF
from sdk.cli.support.output import format_option, human_bytes, print_facts, print_json, print_rows, render
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdk.schemas.scores import EvaluationView


@click.command(name="show")
@click.argument("ref", type=REF)
@click.option(
    "--rows", is_flag=True, help="Show the first rows that it was trained on instead, as its training saw them."
)
@format_option
def show_command(ref: str, rows: bool, style: str) -> None:
    """Show the version that REF names, or a sweep's member, sweep:ID/N: base, configuration, data, training, scores, files.

    As JSON it also says, under `compat`, which inference engines can serve it: see `adapterctl compat`.

    With --rows: the first rows of its training, for those who may read its dataset: rendered and cut as its steps got them, in the
    order of these. The parts that the loss was computed on are green on a terminal, and in double brackets elsewhere.

    \b
    Examples:
      adapterctl show code-review@v3
      adapterctl show code-review@production --format json | jq .base.fingerprint
      adapterctl show code-review@v3 --rows
    """
    from sdk.cli.support.training_rows_pages import print_training_rows
    from sdk.examining.engine_compatibility import by_engine
    from sdk.schemas.version_facts import facts_of

    with open_client() as client:
        if rows:
            print_training_rows(client.versions.training_rows(ref), style)
            return
        version = client.get(ref)
        if style == "json":
            print_json({**version.as_dict(), "compat": by_engine(client, version)})
        elif style == "quiet":
            click.echo(version.ref)
        else:
            print_facts(facts_of(version.info, version.norms, size=human_bytes))
            if evaluations := version.evaluations:
                click.echo(f"\n{_scores(evaluations)}")


def _scores(evaluations: Sequence[EvaluationView]) -> str:
    from sdk.cli.support.scores import score_names
    from sdk.schemas.scores import briefly

    names = score_names(one.metrics for one in evaluations)
    rows = [
        [
            one.dataset[:12],
            one.precision,
            *(one.metrics.get(name) for name in names),
            briefly(one.contamination),
            one.model_dump(mode="json")["created_at"],
        ]
        for one in evaluations
    ]
    return render(["dataset", "precision", *names, "seen", "created"], rows)


@click.command(name="list")
@click.option("--namespace", metavar="NAME", help="Only this namespace; - for names without one.")
@click.option("--prefix", default="", metavar="TEXT", help="Only names that begin with this, namespace included.")
@format_option
def list_command(namespace: str | None, prefix: str, style: str) -> None:
    """List the adapters that have a version.

    \b
    Examples:
      adapterctl list --format json
      adapterctl list --namespace team --prefix team/code-
    """
    with open_client() as client:
        rows = [view.model_dump(mode="json") for view in client.adapters(namespace=namespace, prefix=prefix)]
    kind = ["kind"] if any(row["kind"] != "adapter" for row in rows) else []
    columns = ["latest", *kind, "versions", "base", "updated_at"]
    print_rows(style, rows, columns, key="adapter", empty="no adapters yet; make one with: adapterctl train")


@click.command(name="versions")
@click.argument("name", type=ADAPTER)
@click.option("--archived", is_flag=True, help="Include archived ones.")
@format_option
def versions_command(name: str, archived: bool, style: str) -> None:
    """List the versions of the adapter NAME, newest first.

    \b
    Examples:
      adapterctl versions code-review
      adapterctl versions code-review --archived
    """
    with open_client() as client:
        views = [version.info.model_dump(mode="json") for version in client.versions(name, archived=archived)]
    rows = [
        {
            **{key: view[key] for key in ("ref", "number", "digest", "state", "aliases", "created_at")},
            "base": view["base"]["id"],
            "rank": view["lora"]["rank"],
            "eval_loss": view["metrics"].get("eval_loss"),
        }
        for view in views
    ]
    print_rows(
        style, rows, ["ref", "aliases", "rank", "eval_loss", "base", "created_at"], key="ref", empty="no versions yet"
    )
