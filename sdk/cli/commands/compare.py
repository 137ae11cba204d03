"""`adapterctl compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import REF_OR_BASE, ROWS
from sdk.cli.support.dataset_names import ShownDatasets
from sdk.cli.support.options import scores_of_option, whose_base_options
from sdk.cli.support.output import is_piped, keep_asked, print_one, writable
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.schemas.scores import Comparison


@click.command(name="compare")
@click.argument("refs", type=REF_OR_BASE, nargs=-1, required=True, metavar="REF|base:ID…")
@whose_base_options
@click.option("--metric", help="The score to compare by, as `evals show` names it. [default: loss]")
@click.option(
    "--data", type=ROWS, metavar="FILE|NAME|DIGEST", help="The rows, where all were scored on several datasets."
)
@click.option("--by", metavar="COLUMN", help="Column of the rows: those that are equal in it are one group.")
@click.option("--examples", type=click.IntRange(0, 100), default=0, help="How many rows to show, most changed first.")
@click.option(
    "--detect",
    type=click.FloatRange(1e-9, 1e9),
    help="Say how many rows it takes to show this difference, instead of the one that was found.",
)
@scores_of_option
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw the intervals into this file; needs the extra 'plot'.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "quiet", "markdown", "html"]),
    default="table",
    show_default=True,
    callback=keep_asked,
    help="json: one document on stdout; quiet: the better one of each pair, or '-'; markdown: a page; html: a report of it, each compared with the first.",
)
def compare_command(refs: tuple[str, ...], png: Path | None, style: str, **given: Any) -> None:
    """Say which of two or more versions (REF), members of sweeps (sweep:ID/N) and bare bases (base:ID) scores better, row by
    row and pair by pair.

    They must have been scored in the same way on the same rows, best in one job of `eval`. The interval is that of the difference
    at 95 %; p counts all pairs. A verdict needs 20 rows, or groups. A version's scores are those that its own
    namespace made, a base's are those of the versions' namespace.

    \b
    Examples:
      adapterctl compare code-review@v3 code-review@v4
      adapterctl compare sql@v1 sql@v2 base:tiny --metric rouge_l --examples 5
      adapterctl compare sql@v1 sql@v2 --by repository --detect 0.01
      adapterctl compare sql@v1 sql@v2 --examples 20 --format html > sql.html
      adapterctl compare team/sql@v1 team/sql@v2 --scores-of audit
    """
    if png is not None:
        from sdk.cli.support.comparison_pages import write_png
        from sdk.plotting.png import require_matplotlib

        require_matplotlib("take --format html")
    rows = given.pop("examples") if style == "html" else 0
    with open_client() as client:
        # What can't be compared is refused before anything is written.
        found = client.compare(refs, **given)
        names = ShownDatasets(client, [found.dataset] if png or style in ("table", "markdown") else [])
        named = found.model_copy(update={"dataset_name": names.of(found.dataset)})
        page = client.report(refs, rows=rows, **given).text if style == "html" else ""
    if png is not None:
        write_png(named, png)
    if style == "html":
        click.echo(page.encode(), nl=False)
    else:
        print_one(style, found, (pair.better or "-" for pair in found.pairs), lambda: _print(named, style))


def _print(found: Comparison, style: str) -> None:
    from sdk.cli.support.comparison_pages import comparison_lines, markdown_page, print_comparison

    if style == "table" and is_piped():
        print_comparison(found)
    elif style == "table":
        for line in comparison_lines(found):
            click.echo(line)
    else:
        click.echo(writable(markdown_page(found)), nl=False)
