"""Records: what a command shows of one thing. For people names and values, then tables; in a pipe a field and its value a line.

A table within a record has in a pipe a line for each of its values: `attempts.2.state<TAB>failed`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from sdk.cli.support.columns import written
from sdk.cli.support.layout import columns_of
from sdk.cli.support.listings import Listing, say_left_out
from sdk.cli.support.output import cell, filled, is_piped, render, screen_width, writable


def print_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Print names and values, one pair per line; a further value of the name before has an empty one."""
    if is_piped():
        last = ""
        for name, value in facts:
            last = name or last
            click.echo(writable(f"{written(last)}\t{written(value)}"))
        return
    width = max((columns_of(name) for name, _ in facts), default=0)
    for name, value in facts:
        label = name + " " * (width - columns_of(name))
        text = filled(cell(value), f"{label}  ", " " * (width + 2), break_long_words=False) or label
        if sys.stdout.isatty():
            text = click.style(label, bold=True) + text.removeprefix(label)
        click.echo(text)


def print_table(
    name: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    cut: int | None = None,
    spare: Sequence[int] = (),
) -> None:
    """Print a table of a record, laid out as `render` says."""
    if is_piped():
        _print_fields(name, headers, rows)
    else:
        click.echo(render(headers, rows, cut=cut, spare=spare))


def print_listing(name: str, listing: Listing, rows: Sequence[Any]) -> None:
    """Print a list as a table of a record."""
    if is_piped():
        _print_fields(
            name, [one.field for one in listing.columns], [[one.of(row) for one in listing.columns] for row in rows]
        )
        return
    found = listing.drawn(rows, width=screen_width())
    header, *lines = found.text.split("\n")
    click.echo("\n".join([click.style(header, bold=True) if sys.stdout.isatty() else header, *lines]))
    if found.left_out:
        say_left_out(found.left_out)


def _print_fields(name: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    for number, row in enumerate(rows, start=1):
        for header, value in zip(headers, row, strict=True):
            field = f"{name}.{number}.{written(header).replace(' ', '_')}"
            click.echo(writable(f"{field}\t{written(value)}"))


def print_gap() -> None:
    """Print an empty line between the parts of a record, where people read it."""
    if not is_piped():
        click.echo()


def print_remark(text: str, first: str = "") -> None:
    """Print a sentence that belongs to a record; in a pipe as a field."""
    if is_piped():
        click.echo(writable(f"note\t{written(text)}"))
    else:
        click.echo(filled(text, first) or first.rstrip())
