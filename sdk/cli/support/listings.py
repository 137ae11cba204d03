"""Lists: what a command lists is declared once, and drawn for people, written into pipes, and printed as JSON from that.

>>> people = Listing(ListColumn("name"), ListColumn("rank", importance=1), key="name")
>>> print(people.tabbed([{"name": "ada", "rank": 8}]))
name	rank
ada	8
>>> print(people.drawn([{"name": "ada", "rank": 8}], width=80).text)
NAME  RANK
ada      8
>>> people.drawn([{"name": "ada", "rank": 8}], width=9).left_out
('rank',)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sdk.cli.support.columns import CellForm, ListColumn, drawn, written
from sdk.cli.support.layout import Laid, Strip, laid_out
from sdk.cli.support.output import format_option, is_piped, print_json, say, say_filled, screen_width, writable

F = TypeVar("F", bound=Callable[..., Any])

#: From how many columns on moments are in full, and a sentence may be cut for that: what is left of it can be read. On any
#: narrower terminal they are relative in all lists, so that one list has them as another does.
_WIDE = 120
_NO_HEADER = "sdk.cli.no_header"


@dataclass(frozen=True)
class DrawnList:
    """A table for people, and the headers of the columns for which there was no room."""

    text: str
    left_out: tuple[str, ...]


class Listing:
    """The columns of a list. The first one names the row, and is never left out; `key` is what `--format quiet` prints."""

    def __init__(self, *columns: ListColumn, key: str | Callable[[Any], Any]) -> None:
        self.columns = columns
        self._key = ListColumn("key", key, form=CellForm.NAME)

    def with_columns(self, *more: ListColumn, before: str | None = None) -> Listing:
        """Return a listing with further columns, which only some lists have: those of scores."""
        at = len(self.columns) if before is None else [one.header for one in self.columns].index(before)
        return Listing(*self.columns[:at], *more, *self.columns[at:], key=self._key.value or "")

    def print(
        self,
        style: str,
        rows: Sequence[Any],
        *,
        empty: str,
        documents: Iterable[Any] | None = None,
        colour: Callable[[Any, str], str] | None = None,
        header: bool = True,
    ) -> None:
        """Print rows as JSON (of `documents`, if these aren't the rows themselves), or as bare keys, or as a table: drawn for
        people, and one record per line where they go to a program. `colour` may colour the line of a row; without `header`
        a pipe gets records alone, as after others of the same list.
        """
        if style == "json":
            print_json(list(rows if documents is None else documents))
        elif style == "quiet":
            for row in rows:
                click.echo(self._key.of(row))
        elif is_piped():
            text = self.tabbed(rows, header=header and not _asked(_NO_HEADER))
            click.echo(writable(text) + "\n" if text else "", nl=False)
            if not rows:
                say(empty)
        elif not rows:
            say(empty)
        else:
            found = self.drawn(rows, width=screen_width())
            headers, *lines = found.text.split("\n")
            if not _asked(_NO_HEADER):
                click.echo(click.style(headers, bold=True) if sys.stdout.isatty() else headers)
            for row, line in zip(rows, lines, strict=True):
                click.echo(colour(row, line) if colour is not None and sys.stdout.isatty() else line)
            if found.left_out:
                say_left_out(found.left_out)

    def tabbed(self, rows: Sequence[Any], *, header: bool = True) -> str:
        """Return a record per line, with tabs between whole values, after a line of their names."""
        lines = [[column.field for column in self.columns]] if header else []
        lines += [[written(column.of(row)) for column in self.columns] for row in rows]
        return "\n".join("\t".join(line) for line in lines)

    def drawn(self, rows: Sequence[Any], *, width: int) -> DrawnList:
        """Return a table that is no wider than `width`, unless one key alone is."""
        values = [[column.of(row) for row in rows] for column in self.columns]
        there = [
            (column, given)
            for at, (column, given) in enumerate(zip(self.columns, values, strict=True))
            if at == 0
            or (
                column.importance
                and (column.always or any(value not in (None, "", [], column.usual) for value in given))
            )
        ]
        found = Laid([], [])
        # Moments in full, if there is room for everything then.
        for exact in (True, False) if width >= _WIDE else (False,):
            strips = [
                Strip(
                    headed(column.header),
                    _aligned(column, given, [drawn(column, value, exact=exact) for value in given]),
                    importance=column.importance,
                    may_be_cut=column.drawn_as is CellForm.PROSE,
                    on_the_right=column.drawn_as in (CellForm.NUMBER, CellForm.SIZE, CellForm.DURATION),
                )
                for column, given in there
            ]
            found = laid_out(strips, width)
            if not found.left_out:
                break
        # A header says more than one line takes, so it is in the words of the vocabulary.
        names = {headed(column.header): column.header for column, _ in there}
        return DrawnList("\n".join(found.lines), tuple(names[header] for header in found.left_out))


def _aligned(column: ListColumn, values: Sequence[Any], cells: list[str]) -> list[str]:
    """Give measured numbers the same digits as others of their column: 2.900 over 2.901, but 0.5 over 0.25 as they are.

    >>> _aligned(ListColumn("loss"), [2.9, 2.901, None], ["2.9", "2.901", "-"])
    ['2.900', '2.901', '-']
    """
    if column.drawn_as is not CellForm.NUMBER or not any(len(_significant(cell)) >= 4 for cell in cells):
        return cells
    measured = [isinstance(value, float) and math.isfinite(value) and value != 0 for value in values]
    return [
        f"{value:#.4g}".removesuffix(".") if known else cell
        for value, cell, known in zip(values, cells, measured, strict=True)
    ]


def _significant(cell: str) -> str:
    """The digits of a number with a point, without zeros in front; "" for one without."""
    return cell.partition("e")[0].replace(".", "").lstrip("-0") if "." in cell else ""


def headed(name: str) -> str:
    """Return a name as a header of a table."""
    return name.upper().replace("_", " ")


def say_left_out(headers: Sequence[str]) -> None:
    """Say which columns a terminal was too narrow for."""
    say_filled(f"no room for: {', '.join(headers)}; a wider terminal, a pipe or --format json has all")


def listed(listing: Listing) -> Callable[[F], F]:
    """Make a command one that lists: `--format` and `--no-header`, and `listing`, by which tests know it."""

    def with_options(command: F) -> F:
        command = no_header_option(format_option(command))
        command.listing = listing  # type: ignore[attr-defined]
        return command

    return with_options


def no_header_option(command: F) -> F:
    """Add `--no-header`."""
    return click.option(
        "--no-header", is_flag=True, expose_value=False, callback=_keep, help="Leave out the line of headers."
    )(command)


def _keep(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[_NO_HEADER] = value


def _asked(name: str) -> bool:
    ctx = click.get_current_context(silent=True)
    return bool(ctx is not None and ctx.meta.get(name))
