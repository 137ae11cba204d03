"""`adapterctl report`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.completing.kinds import FILE, REF, REPORTED, ROWS
from sdk.cli.support.options import scores_of_option, whose_base_options
from sdk.cli.support.output import format_option, print_made, say
from sdk.cli.support.session import open_client
from sdk.config import user_path


@click.command(name="report")
@click.argument("of", type=REPORTED, metavar="NAME|REF…|sweep:ID|decision:ID", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    required=True,
    help="Where it goes: FILE.html, or FILE.md for Markdown.",
)
@click.option(
    "--rows",
    type=click.IntRange(0, 100),
    default=0,
    help="How many rows that changed most, or samples of one version, are in it; then it is audited.",
)
@click.option(
    "--against",
    type=REF,
    metavar="REF",
    help="Compare all others with this one. [default: the first; of an adapter, production]",
)
@click.option("--metric", help="The score to compare by. [default: loss]")
@click.option(
    "--data",
    type=ROWS,
    metavar="FILE|NAME|DIGEST",
    help="The rows to compare by. [default: those that most were scored on]",
)
@click.option("--by", metavar="COLUMN", help="Column of the rows: those that are equal in it are one group.")
@scores_of_option
@whose_base_options
@format_option
def report_command(of: tuple[str, ...], output: str, style: str, **given: Any) -> None:
    """Write a report about an adapter, about versions side by side, about a sweep or about a decision into one file, and print
    its path.

    The HTML needs nothing from elsewhere: it opens from a disk, without a network, and runs nothing but its own script. It
    has what you may see, and says on top what it holds, for whose eyes, and from when. Rows and samples are in it only with
    --rows.

    \b
    Examples:
      adapterctl report code-review -o code-review.html
      adapterctl report sql@v3 sql@v4 base:tiny --rows 10 -o both.html
      adapterctl report team/sql@v1 team/sql@v2 --metric rouge_l -o sql.md
      adapterctl report sweep:3f1c2a9b7d20 -o sweep.html
      adapterctl report decision:5d0c1b2a3f4e6071 -o decision.md
    """
    from sdk.examining.reporting import form_of

    path = user_path(output)
    form = form_of(path)
    with open_client() as client:
        made = client.report(of, form=form, **{**given, "published": bool(given["published"])})
    written = made.save(path)
    if made.rows and style == "table":
        say(f"it holds {made.rows} rows or samples; send it only to people who may read their dataset")
    document = {
        "path": str(written),
        "title": made.title,
        "format": form,
        "rows": made.rows,
        "made_at": f"{made.made_at:%Y-%m-%dT%H:%M:%SZ}",
    }
    print_made(style, document, str(written))
