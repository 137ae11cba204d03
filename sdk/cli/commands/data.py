"""`adapterctl data`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, get_args

import click

from sdk.cli.commands.watch import result_of
from sdk.cli.completing.kinds import BASE, FILE, REF, ROWS
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.data_pages import FINDINGS, print_audit, print_preview
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import confirm, whose_base_options, yes_option
from sdk.cli.support.output import (
    NOT_AS_IT_SHOULD_BE,
    format_option,
    print_done,
    print_made,
    say,
)
from sdk.cli.support.session import client_with, open_client, watched
from sdk.cli.support.spec_options import spec_options
from sdk.config import user_path
from sdk.formats.objectives import LossOn
from sdk.formats.refs import looks_like_digest
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.vocabulary_fields import VocabularyFields

if TYPE_CHECKING:
    from sdk.objects import Job
    from sdk.schemas.preview import Preview


@click.group(name="data", cls=CommandGroup)
def data_command() -> None:
    """Add, check, preview, pull, list and remove datasets."""


@data_command.command(name="add")
@click.argument("file", type=FILE)
@click.option("--name", metavar="NAME", help="The dataset's name. [default: the name of FILE]")
@click.option(
    "--namespace",
    metavar="NAMESPACE",
    help="Whose readers may use it. [default: the first namespace that you may write to]",
)
@click.option(
    "--columns", metavar="KEY=COLUMN,…", help="Which columns are which keys: prompt=question,completion=answer."
)
@format_option
def data_add(file: str, name: str | None, namespace: str | None, columns: str | None, style: str) -> None:
    """Check and upload the dataset in FILE; print its digest.

    Its name belongs to one namespace, and may not look like a digest. Other rows under the same name get the next
    number, NAME@v2; the same rows again keep theirs. Everything that takes DATA takes NAME, NAME@v2 or the digest.
    Its --columns hold wherever it is used and nothing else is given.

    \b
    Examples:
      adapterctl data add reviews.jsonl
      adapterctl data add new.jsonl --name reviews
      adapterctl data add faq.csv --columns prompt=question,completion=answer
    """
    with open_client() as client:
        view = client.datasets.add(file, name=name, namespace=namespace, columns=columns)
    named = "" if view.exact_name is None else f"{view.exact_name}: "
    rows = f"{named}{'?' if view.rows is None else view.rows} rows of {view.shape or view.format}"
    print_made(style, view.model_dump(mode="json"), view.digest, rows)


@data_command.command(name="pull")
@click.argument("data", type=ROWS)
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="A new file.")
@click.option("--namespace", metavar="NAMESPACE", help="Only what this namespace has is meant.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@format_option
def data_pull(data: str, output: str, namespace: str | None, overwrite: bool, style: str) -> None:
    """Fetch the rows of DATA (a name, NAME@v2 or a digest) into a file, byte for byte; print its path.

    They are checked against the digest while they arrive. An interrupted pull continues where it broke.

    \b
    Examples:
      adapterctl data pull reviews@v2 -o reviews.jsonl
      adapterctl data pull 3f1c2a9b7d20 -o rows.jsonl --overwrite
    """
    with open_client() as client:
        view = client.datasets.pull(data, output, namespace=namespace, overwrite=overwrite)
    path = str(user_path(output))
    document = {"data": view.exact_name, "digest": view.digest, "path": path}
    print_made(style, document, path, f"{view.exact_name or 'dataset'}, sha256:{view.digest}")


@data_command.command(name="preview")
@click.argument("file", type=FILE, required=False)
@click.option("--base", type=BASE, help="A folder (./base), or a registered base whose files are on this machine.")
@whose_base_options
@click.option("--of", type=REF, metavar="REF", help="Instead of FILE: the rows that this version was trained on.")
@click.option("--rows", type=int, help="Show this many rows from the start. [default: 3]")
@click.option("--row", type=int, help="Show only this row, counted from 1.")
@click.option("--loss-on", type=click.Choice(get_args(LossOn)), help="As in `train`.")
@click.option("--columns", metavar="KEY=COLUMN,…", help="As in `train`.")
@spec_options(HoldoutFields, about="As in `train`.")
@spec_options(TemplateFields, about="As in `train`.")
@spec_options(VocabularyFields, about="As in `train`.")
@click.option("--max-length", type=int, help="As in `train`. [default: 1024]")
@format_option
def data_preview(file: str | None, rows: int | None, row: int | None, style: str, **given: Any) -> None:
    """Show what a training over BASE would learn from the rows in FILE, using the training's own code.

    Instead of FILE, a dataset's name (NAME, NAME@v2) or digest can be given.

    Or, with --of, what a version's training has learnt from its rows: base, date, --loss-on, --columns and --max-length
    come from its record. The parts that the loss is computed on are green on a terminal, and in double brackets elsewhere. If a
    worker's libraries are not installed (pip install 'adapterctl[worker]'), a small job does it: FILE is added as a
    dataset, a base in a folder is registered, and at most 100 rows are shown. The same happens with --of if the base's
    files are not on this machine.

    \b
    Examples:
      adapterctl data preview reviews.jsonl --base ./SmolLM2-135M-Instruct
      adapterctl data preview reviews.jsonl --base SmolLM2-135M --row 7
      adapterctl data preview --of code-review@v3 --row 7
    """
    if rows is not None and row is not None:
        raise click.UsageError("--rows and --row can't be combined; give one of them")
    with open_client() as client:
        found = client.preview(file, rows=3 if rows is None else rows, row=row, on_job=_follow, **given)
    print_preview(found, style)


def _follow(job: Job[Preview]) -> None:
    say(f"job {job.id} previews {job.view.subject}")
    result_of(job)


@data_command.command(name="check")
@click.argument("data", type=ROWS, nargs=-1, required=True)
@click.option(
    "--base",
    type=BASE,
    help="Count tokens over this base: a folder (./base), or a registered base whose files are here.",
)
@whose_base_options
@click.option("--eval-data", type=ROWS, help="Held-out rows: those that are in DATA, too, are named.")
@click.option("--columns", metavar="KEY=COLUMN,…", help="As in `train`.")
@spec_options(HoldoutFields, about="As in `train`.")
@click.option("--loss-on", type=click.Choice(get_args(LossOn)), help="As in `train`; with --base.")
@spec_options(TemplateFields, about="As in `train`; with --base.")
@spec_options(VocabularyFields, about="As in `train`; with --base.")
@click.option("--max-length", type=int, help="As in `train`; with --base. [default: 1024]")
@click.option(
    "--sample", type=int, metavar="ROWS", help="Rows whose tokens are counted, spread over DATA. [default: 5000]"
)
@click.option("--examples", type=int, default=5, show_default=True, help="Rows of each kind that are named.")
@listed(FINDINGS)
def data_check(
    data: tuple[str, ...],
    base: str | None,
    base_namespace: str | None,
    published: bool | None,
    style: str,
    **given: Any,
) -> None:
    """Look for what is wrong with the rows of DATA (a file, or a dataset's name or digest; or several together) before a training.

    Names rows that can't be used, lack a text, repeat another (exactly, in another spelling, or nearly), answer the same
    prompt otherwise, or have characters that are not seen. With --eval-data also those that are held out, with --holdout
    those that it would hold out and that are nearly among the others, with --base those that are too long. --holdout-by
    alone says that its column is not part of a row. Ends with 0 if nothing is wrong, and with 7 otherwise. Files are read
    here, without a registry.

    \b
    Examples:
      adapterctl data check reviews.jsonl
      adapterctl data check reviews.jsonl faq@v2
      adapterctl data check reviews.jsonl --eval-data held.jsonl --base ./base
      adapterctl data check faq.csv --columns prompt=question,completion=answer
      adapterctl data check reviews.jsonl --holdout 0.1 --holdout-by customer
    """
    from sdk.examining.data_check import check_rows_of
    from sdk.pushing.given_base import given_base_if_any

    with ExitStack() as stack:
        on_transfer = stack.enter_context(watched())
        found = check_rows_of(
            data,
            base=given_base_if_any(base, base_namespace, published),
            registry=lambda: stack.enter_context(client_with(on_transfer)),
            on_transfer=on_transfer,
            **given,
        )
    print_audit(found, style)
    if not found.clean:
        click.get_current_context().exit(NOT_AS_IT_SHOULD_BE)


_DATASETS = Listing(
    ListColumn("dataset", lambda view: ", ".join(view.names) or view.exact_name or view.name or view.digest[:12]),
    ListColumn("digest", importance=8),
    ListColumn("namespace", importance=4, usual="-"),
    ListColumn("rows", importance=7),
    ListColumn("shape", importance=5),
    ListColumn("size", "size_bytes", 3),
    ListColumn("created", "created_at", 6),
    ListColumn("columns", importance=0),
    key="digest",
)


@data_command.command(name="list")
@listed(_DATASETS)
def data_list(style: str) -> None:
    """List datasets, newest first.

    \b
    Example:
      adapterctl data list
    """
    with open_client() as client:
        views = client.datasets()
    _DATASETS.print(style, views, empty="no datasets yet; add one with: adapterctl data add FILE")


#: How many versions that were trained on a dataset are named before it is removed.
_MOST_TRAINED = 5


@data_command.command(name="rm")
@click.argument("data", type=ROWS)
@click.option(
    "--namespace",
    metavar="NAMESPACE",
    help="Only from this namespace, whose name is meant. [default: from all that you may write to]",
)
@yes_option
@format_option
def data_rm(data: str, namespace: str | None, yes: bool, style: str) -> None:
    """Remove the dataset DATA (a name, NAME@v2 or a digest); versions trained on it still name it.

    Of rows with several names, only this name goes; by their digest, all do. Rows without a name go with a later
    `adapterctl gc`, unless the same file is added again first.

    \b
    Examples:
      adapterctl data rm reviews.jsonl
      adapterctl data rm 3f1c9a7e5b20
    """
    with open_client() as client:
        view = client.datasets.get(data, namespace=namespace)
        others = [] if looks_like_digest(data) else [one for one in view.names if one.rpartition("@")[0] != view.name]
        if others:
            # What the question is about goes, whatever the name means by then.
            exact = f"{view.name}@v{view.number}"
            confirm(f"remove the name {exact}? these rows keep the name {', '.join(others)}", yes=yes)
            client.datasets.remove(exact, namespace=namespace, only_name=True)
            done = f"the name {exact} is removed; these rows are still {others[0]}"
            print_done(style, {"data": exact, "removed": True, "names": others}, None, done)
            return
        trained = [version.ref for version in client.search(f"dataset = {view.digest}", limit=_MOST_TRAINED + 1)]
        if trained:
            more = ", …" if len(trained) > _MOST_TRAINED else ""
            say(
                f"trained on it: {', '.join(trained[:_MOST_TRAINED])}{more}; they can't be trained like that again without it"
            )
        if len(view.names) > 1:
            say(f"these rows are called {', '.join(view.names)}; all names go")
        # The bytes that the question is about go, whatever the name means by then.
        confirm(f"remove {data} ({view.digest[:12]}, {view.rows} rows)?", yes=yes)
        client.datasets.remove(view.digest, namespace=namespace)
    later = f"{data} is removed; its bytes go with the next: adapterctl gc"
    print_done(style, {"data": data, "removed": True}, None, later)
