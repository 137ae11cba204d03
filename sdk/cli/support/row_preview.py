"""Rows as a training would learn them, for people: the parts that the loss is computed on are marked."""

from __future__ import annotations

import itertools
import sys

import click

from sdk.cli.support.output import plain, print_facts, writable
from sdk.schemas.preview import Preview, PreviewText

#: The marks around what is learnt if there are no colours.
_BEGINS, _ENDS = "⟦", "⟧"
#: How many characters of the cut-off text are shown.
_MOST_CUT_CHARACTERS = 200


def print_preview(preview: Preview, *, quiet: bool = False) -> None:
    """Print the texts with what is learnt marked, then remarks about all of them; `quiet`: only what is learnt."""
    for text, answer in zip(preview.rows, _answers(preview), strict=True):
        if quiet:
            click.echo(writable(_lines(text.supervised_text if text.label is None else text.label)))
            continue
        click.echo(_bold(_headline(text, answer)))
        click.echo(writable(_marked(text)))
        if text.cut_tokens:
            click.echo(writable(_cut_off(text, preview.max_length)))
        if not text.supervised and text.label is None:
            click.echo("  nothing in it would be learnt, so this text is dropped")
        click.echo()
    if not quiet:
        print_facts(_facts(preview))


def _answers(preview: Preview) -> list[str | None]:
    """Return which answer of its row each text has; for a preference first the chosen one, then the rejected one."""
    if preview.shape != "preference":
        return [None] * len(preview.rows)
    rows = [None, *(text.row for text in preview.rows)]
    return ["rejected" if row == before else "chosen" for before, row in itertools.pairwise(rows)]


def _headline(text: PreviewText, answer: str | None) -> str:
    said = [
        f"row {text.row} ({text.where})",
        *([] if answer is None else [answer]),
        *(
            [f"{text.tokens} tokens, {text.supervised_tokens} learnt"]
            if text.label is None
            else [f"{text.tokens} tokens"]
        ),
        *([] if text.method is None else [f"method {text.method}"]),
        f"stop {plain(text.stop)}" if text.stop else "no stop" if text.label is None else f"label {plain(text.label)}",
    ]
    return writable(" · ".join(said))


def _marked(text: PreviewText) -> str:
    parts, last = [], 0
    for start, end in text.supervised:
        parts += [_lines(text.text[last:start]), _learnt(_lines(text.text[start:end]))]
        last = end
    return "".join([*parts, _lines(text.text[last:])])


def _learnt(text: str) -> str:
    if not sys.stdout.isatty():
        return f"{_BEGINS}{text}{_ENDS}"
    # Line by line: pagers, and terminals that scroll, forget the colour at the end of a line. Spaces show it as well.
    return "\n".join(click.style(line, fg="black", bg="green") if line else "" for line in text.split("\n"))


def _cut_off(text: PreviewText, max_length: int) -> str:
    said = plain(text.cut_text)
    shown = said if len(said) <= _MOST_CUT_CHARACTERS else said[:_MOST_CUT_CHARACTERS] + "…"
    return f"  cut off after {max_length} tokens, dropping {text.cut_tokens}: {shown}"


def _facts(preview: Preview) -> list[tuple[str, str | None]]:
    rendering, totals = preview.rendering, preview.totals
    if totals is None:
        whole = f"{preview.file_rows} rows, too many to check here: only those shown were checked"
    else:
        whole = (
            f"{preview.file_rows} rows, {totals.samples} texts, {totals.tokens} tokens, {totals.supervised_tokens} learnt; "
            f"{totals.rows_cut} rows cut, {totals.rows_dropped} dropped"
        )
    left_out = (
        [("left out", f"{preview.left_out} more texts of these rows don't fit into a job's result")]
        if preview.left_out
        else []
    )
    if preview.labels:
        labels = ", ".join(map(plain, preview.labels))
        return [("loss on", preview.loss_on), ("labels", labels), ("file", whole), *left_out]
    return [
        ("loss on", preview.loss_on),
        ("template", ", ".join(digest[:12] for digest in rendering.templates) or None),
        ("date in it", rendering.template_date),
        ("file", whole),
        *left_out,
    ]


def _lines(text: str) -> str:
    """Return untrusted text made safe for a terminal, keeping line ends and tabs."""
    return "".join(c if c in "\n\t" else plain(c) for c in text)


def _bold(text: str) -> str:
    return click.style(text, bold=True) if sys.stdout.isatty() else text
