"""The option that asks for the scores of others."""

from __future__ import annotations

import click

scores_of_option = click.option(
    "--scores-of",
    metavar="NAMESPACE|*",
    help="Take the scores that this namespace made, '*': any that you may read. [default: each version's own]",
)
