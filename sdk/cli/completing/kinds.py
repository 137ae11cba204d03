"""What an argument or an option is a name of, which is what a shell completes it with. Each kind stands here once.

    @click.argument("ref", type=REF)

A value is taken as it is: commands check it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Kind(click.ParamType[str]):
    """A text that is a name of one of some sorts: those of `offering.OFFERED`."""

    #: What stands for a value in a command's help.
    name = "text"

    def __init__(self, *sorts: str) -> None:
        self.sorts = sorts

    def __repr__(self) -> str:
        return f"Kind({', '.join(map(repr, self.sorts))})"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what a shell offers."""
        from sdk.cli.completing.offering import offered

        return offered(self.sorts, ctx.params, incomplete)


REF = Kind("ref")
REF_OR_FOLDER = Kind("ref", "folder")
REF_OR_BASE = Kind("ref", "base:")
ADAPTER = Kind("adapter")
ALIAS = Kind("alias")
#: `v3`, of the adapter whose name comes before.
NUMBER = Kind("number")
JOB = Kind("job")
SWEEP = Kind("sweep")
#: What has a curve.
DRAWN = Kind("job", "ref", "sweep:")
REPORTED = Kind("ref", "sweep:")
BASE = Kind("base", "folder")
KNOWN_BASE = Kind("base")
ROWS = Kind("dataset", "file")
DATASET = Kind("dataset")
FILE = Kind("file")
FOLDER = Kind("folder")
