"""`adapterctl plot`."""

from __future__ import annotations

import click

from sdk.cli.completing.kinds import DRAWN, FILE
from sdk.cli.support.output import format_option, print_made
from sdk.cli.support.session import open_client
from sdk.config import user_path


@click.command(name="plot", short_help="Draw the curves of trainings, or a sweep, as SVG or PNG.")
@click.argument("of", type=DRAWN, metavar="JOB|REF…|sweep:ID", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    required=True,
    help="Where the picture goes: FILE.svg, or FILE.png with the extra 'plot'.",
)
@format_option
def plot_command(of: tuple[str, ...], output: str, style: str) -> None:
    """Draw loss, held-out loss, learning rate and norm of the gradients by step, and print the file's path.

    Of each training, named by its job, its version or as a sweep's member (sweep:ID/N), all steps are in the picture: the line is their mean, the band goes
    from the least to the greatest. A job may still be running. An SVG needs nothing installed.

    \b
    Examples:
      adapterctl plot 3f1c2a9b7d20 -o curve.svg
      adapterctl plot code-review@v1 code-review@v2 -o both.svg
      adapterctl plot team/sql@production -o curve.png
      adapterctl plot sweep:3f1c2a9b7d20 -o ranks.svg
    """
    from sdk.plotting.plot import checked_target

    target = checked_target(user_path(output))
    with open_client() as client:
        written = client.plot(of).save(target)
    print_made(style, {"path": str(written), "of": list(of)}, str(written))
