"""`adapterctl evals`: scores that were recorded."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import FILE, REF_OR_BASE
from sdk.cli.support.columns import CellForm, ListColumn
from sdk.cli.support.dataset_names import ShownDatasets
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed, no_header_option
from sdk.cli.support.options import scores_of_option, whose_base_options
from sdk.cli.support.output import filled, format_option_of, is_piped, one_line, plain, print_one, say
from sdk.cli.support.records import print_facts, print_gap, print_listing, print_remark
from sdk.cli.support.score_tables import (
    condition_rows,
    label_lines,
    metrics_of,
    print_label_counts,
    row_document,
    row_listing,
    slice_listing,
    worst_first,
)
from sdk.cli.support.scores import (
    error_lines,
    long_lines,
    metric_text,
    score_listing,
    score_names,
)
from sdk.cli.support.session import open_client
from sdk.schemas.score_order import direction, in_order_asked
from sdk.schemas.scores import said

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.examining.label_counts import LabelCounts
    from sdk.objects import Evaluation
    from sdk.schemas.evaluation import RowScore
    from sdk.schemas.scores import SlicedScores

_METRICS = Listing(
    ListColumn("metric", lambda pair: pair[0]),
    ListColumn("value", lambda pair: metric_text(*pair), 8),
    ListColumn("better", lambda pair: direction(pair[0]), 3, none=""),
    key="metric",
)
_CONDITIONS = Listing(
    ListColumn("condition", lambda pair: pair[0]),
    ListColumn("value", lambda pair: pair[1], form=CellForm.PROSE),
    key="condition",
)
#: How many rows a table has by default.
_ROWS = 20


@click.group(name="evals", cls=CommandGroup)
def evals_command() -> None:
    """List and show the scores of versions and bases."""


@evals_command.command(name="list", short_help="List the scores of a version or base.")
@click.argument("target", type=REF_OR_BASE, metavar="REF|base:ID")
@scores_of_option
@whose_base_options
@listed(score_listing(("loss",)))
def evals_list(target: str, scores_of: str | None, style: str, **whose: Any) -> None:
    """List the scores of a version, a sweep's member (sweep:ID/N) or a bare base, newest first.

    They are those that the version's own namespace made; of a base, those of the namespace in which you would score it.
    SEEN counts contaminated rows: those that the version, or what it came from, was trained on; ? where that is not known.
    ALIKE is the same for scores that were taken under the same conditions, on the same rows: only those are compared.

    \b
    Examples:
      adapterctl evals list code-review@v3
      adapterctl evals list base:SmolLM2-135M --format json
      adapterctl evals list team/code-review@v3 --scores-of audit
    """
    with open_client() as client:
        found = _of(client, target, scores_of, whose)
        names = None if style != "table" or not found else ShownDatasets(client, (one.dataset for one in found))
    found.sort(key=lambda one: one.created_at, reverse=True)
    empty = f"{plain(target)} has no scores yet; make some with: adapterctl eval {plain(target)} --data FILE"
    if scores_of is None:
        empty += ", or list those that any namespace made with: --scores-of '*'"
    listing = score_listing(score_names(one.metrics for one in found), names, whose=scores_of is not None)
    listing.print(style, found, empty=empty, documents=map(_document, found))


def _of(client: Client, target: str, scores_of: str | None, whose: dict[str, Any]) -> list[Evaluation]:
    if target.startswith("base:"):
        name = target.removeprefix("base:")
        base = client.bases.get(name, **whose)
        return client.evaluations(base=base.fingerprint, scores_of=scores_of)
    version = client.get(target)
    return version.evaluations if scores_of is None else version.scores_of(scores_of)


@evals_command.command(name="show", short_help="Show one set of scores, with its conditions, or row by row.")
@click.argument("ident", metavar="ID")
@click.option("--rows", is_flag=True, help="Show what each row scored instead, the worst first.")
@click.option("--worst", type=click.IntRange(min=1), help="How many rows. [default: 20 in a table, else all]")
@click.option("--metric", help="The score by which rows are the worst, such as rouge_l. [default: loss]")
@click.option("--by", metavar="COLUMN", help="Show the scores by the value that rows have in this column instead.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Where --format parquet writes: a new file.")
@no_header_option
@format_option_of(
    *("table", "json", "quiet", "parquet"),
    says="json: one document on stdout; quiet: bare refs, ids or paths; parquet: a file of all rows, with --rows and -o.",
)
def evals_show(
    ident: str, rows: bool, worst: int | None, metric: str | None, by: str | None, output: str | None, style: str
) -> None:
    """Show one set of scores: all metrics, what they depend on, and samples of what was generated; for labels also the
    confusion matrix and the calibration.

    With --rows it shows each row of the data: its number from 0, its loss in nats per token, scores, and the prediction.
    With --by it sums them up by a column of the data that has at most 50 values, those with most rows first.

    \b
    Examples:
      adapterctl evals show 3f1c2a9b7d20
      adapterctl evals show 3f1c2a9b7d20 --rows --worst 20 --metric rouge_l
      adapterctl evals show 3f1c2a9b7d20 --rows --format json
      adapterctl evals show 3f1c2a9b7d20 --rows --format parquet -o rows.parquet
      adapterctl evals show 3f1c2a9b7d20 --by language
    """
    if not rows and (worst is not None or metric is not None):
        raise click.UsageError("--worst and --metric say which rows; add --rows")
    if rows and by is not None:
        raise click.UsageError("--by sums rows up; leave out --rows")
    if (style == "parquet") != (output is not None) or (output is not None and not rows):
        raise click.UsageError("a file is written of rows, as Parquet: --rows --format parquet -o FILE.parquet")
    if output is not None and (worst, metric) != (None, None):
        raise click.UsageError("a file has all rows, in their order; leave out --worst and --metric")
    with open_client() as client:
        if output is not None:
            click.echo(client.evaluations.export_rows(ident, output))
            return
        if by is not None:
            _print_slices(client.evaluations.slices(ident, by=by), style)
            return
        if rows:
            _print_rows(client.evaluations.rows(ident), worst, metric, style)
            return
        found = client.evaluations.get(ident)
        has_labels = "macro_f1" in found.metrics and found.rows_digest is not None and style != "quiet"
        labels = client.evaluations.labels(ident) if has_labels else None
        names = ShownDatasets(client, [found.dataset] if style == "table" else [])
    document = {**_document(found), **({} if labels is None else {"labels": asdict(labels)})}
    print_one(style, document, found.ref, lambda: _print(found, labels, names))


def _print_rows(rows: list[RowScore], worst: int | None, metric: str | None, style: str) -> None:
    names = ["loss", *metrics_of(rows)]
    if metric is not None and metric not in names:
        raise click.UsageError(f"no row has the score {metric}; choose one of: {', '.join(names)}")
    ordered = worst_first(rows, metric)
    # A pipe gets all of them, as JSON does.
    shown = ordered[:worst] if worst else ordered if style != "table" or is_piped() else ordered[:_ROWS]
    row_listing(shown, metric).print(style, shown, empty="no row was scored", documents=map(row_document, shown))
    if style == "table" and len(shown) < len(ordered):
        say(f"{len(shown)} of {len(ordered)} rows, the worst by {metric or 'loss'} first; see more with --worst")


def _print_slices(found: SlicedScores, style: str) -> None:
    listing, said = slice_listing(found)
    if style != "table":
        print_one(style, found, (plain(one.value) for one in found.slices), lambda: None)
        return
    listing.print(style, found.slices, empty="no row has a value")
    if said is not None:
        say(said)


def _document(found: Evaluation) -> dict[str, Any]:
    return {**found.model_dump(mode="json"), "key": found.key}


def _print(found: Evaluation, labels: LabelCounts | None, names: ShownDatasets) -> None:
    metrics = in_order_asked(found.metrics)
    print_facts(
        [
            ("of", found.ref),
            ("dataset", names.of(found.dataset)),
            *((name, found.metrics[name]) for name in metrics[:1]),
            ("contamination", said(found.contamination)),
            ("created", found.created_at),
            ("id", found.id),
            ("namespace", found.namespace),
            ("job", found.job),
            ("precision", found.precision),
            ("grader", found.grader),
            ("rows", None if found.rows_digest is None else f"adapterctl evals show {found.id} --rows"),
        ]
    )
    print_gap()
    pairs = [(name, found.metrics[name]) for name in metrics]
    if is_piped():
        print_facts([(f"metrics.{name}", value) for name, value in pairs])
        print_facts([(f"better.{name}", better) for name in metrics if (better := direction(name))])
    else:
        print_listing("metrics", _METRICS, pairs)
    long = long_lines(found.ref, found.metrics, found.conditions, found.id if found.rows_digest else None)
    for line in (*long, *error_lines(found.ref, found.scorer_errors)):
        print_remark(line)
    print_gap()
    if is_piped():
        print_facts([(f"conditions.{name}", value) for name, value in condition_rows(found.conditions, whole=True)])
        if labels is not None:
            print_label_counts(labels)
        _print_samples(found)
        return
    print_listing("conditions", _CONDITIONS, condition_rows(found.conditions))
    if labels is not None:
        click.echo("\n" + "\n".join(label_lines(labels)).rstrip())
    for sample in found.samples:
        click.echo()
        texts = {"completion": "", "reference": "", "prompt": "", **sample}
        shown = {"— ": texts["prompt"], "  expected:  ": texts["reference"], "  generated: ": texts["completion"]}
        shown |= {"  scored:    ": texts["content"]} if "content" in texts else {}
        for label, text in shown.items():
            click.echo(_wrapped(label, one_line(text)))


def _print_samples(found: Evaluation) -> None:
    for number, sample in enumerate(found.samples, start=1):
        print_facts([(f"samples.{number}.{name}", text) for name, text in sample.items()])


def _wrapped(label: str, text: str) -> str:
    """Return a text after its label, in lines of the terminal's width."""
    return filled(text, label) or label.rstrip()
