"""What an argument or an option is a name of, which is what a shell completes it with. Each kind stands here once.

    @click.argument("ref", type=REF)

A value is taken as it is: commands check it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class ArgumentKind(click.ParamType[str]):
    """A text that is a name of one of some sorts: those of `offering.OFFERED`."""

    #: What stands for a value in a command's help.
    name = "text"

    def __init__(self, *sorts: str) -> None:
        self.sorts = sorts

    def __repr__(self) -> str:
        return f"ArgumentKind({', '.join(map(repr, self.sorts))})"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what a shell offers."""
        from sdk.cli.completing.offering import offered

        return offered(self.sorts, ctx.params, incomplete)


REF = ArgumentKind("ref")
REF_OR_FOLDER = ArgumentKind("ref", "folder")
REF_OR_BASE = ArgumentKind("ref", "base:")
ADAPTER = ArgumentKind("adapter")
ALIAS = ArgumentKind("alias")
#: `v3`, of the adapter whose name comes before.
NUMBER = ArgumentKind("number")
JOB = ArgumentKind("job")
SWEEP = ArgumentKind("sweep")
#: What has a curve.
DRAWN = ArgumentKind("job", "ref", "sweep:")
REPORTED = ArgumentKind("ref", "sweep:")
BASE = ArgumentKind("base", "folder")
KNOWN_BASE = ArgumentKind("base")
ROWS = ArgumentKind("dataset", "file")
DATASET = ArgumentKind("dataset")
FILE = ArgumentKind("file")
FOLDER = ArgumentKind("folder")
