"""A comparison as Markdown and as an HTML page. Text from models and datasets is always shown as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from sdk.cli.support.comparison_table import heading, pair_columns, score_columns, statement

if TYPE_CHECKING:
    from sdk.schemas.comparison import ChangedRow, Comparison

#: Characters that mean something in Markdown, or begin a tag.
_MEANING = re.compile(r"([\\`*_{}\[\]()#+!|<>&~])")
#: The page loads nothing and runs nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}th,td{border-bottom:1px solid #ccc;padding:.3em .8em;text-align:left}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;background:#f5f5f5;padding:.6em;margin:.2em 0}"
)


def markdown_page(found: Comparison) -> str:
    """The comparison as Markdown, as GitHub shows it."""
    return "\n".join(_markdown(found)) + "\n"


def _markdown(found: Comparison) -> Iterator[str]:
    yield f"# {_quoted(', '.join(found.refs))}"
    yield f"\n{_quoted(heading(found))}\n"
    for pair in found.pairs:
        yield f"- {_quoted(statement(pair, alone=len(found.pairs) == 1))}"
    for note in found.notes:
        yield f"- {_quoted(note)}"
    yield ""
    yield from _markdown_table(*score_columns(found))
    yield ""
    yield from _markdown_table(*pair_columns(found))
    for row in found.examples:
        yield f"\n## Row {row.row}"
        for title, text in _texts(row, found.refs):
            yield f"\n{_quoted(title)}\n\n{_fenced(text)}"


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_quoted, headers))} |"
    yield f"|{'---|' * len(headers)}"
    for row in rows:
        yield f"| {' | '.join(_quoted(_cell(value)) for value in row)} |"


def _quoted(text: str) -> str:
    """One line of text in which all special characters are escaped."""
    return _MEANING.sub(r"\\\1", " ".join(_shown(text).split()))


def _fenced(text: str) -> str:
    """Text as it is, between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{_shown(text)}\n{fence}"


def html_page(found: Comparison) -> str:
    """The comparison as one self-contained page."""
    return "".join(_html(found)) + "\n"


def _html(found: Comparison) -> Iterator[str]:
    title = _safe(f"{', '.join(found.refs)} by {found.metric}")
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{_safe(heading(found))}</p>\n<ul>"
    for line in [*(statement(pair, alone=len(found.pairs) == 1) for pair in found.pairs), *found.notes]:
        yield f"<li>{_safe(line)}</li>"
    yield "</ul>\n"
    yield _html_table(*score_columns(found))
    yield _html_table(*pair_columns(found))
    for row in found.examples:
        yield f"<h2>Row {row.row}</h2>\n"
        for name, text in _texts(row, found.refs):
            yield f"<h3>{_safe(name)}</h3><pre>{_safe(text)}</pre>\n"
    yield "</body></html>"


def _html_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{_safe(header)}</th>" for header in headers)
    lines = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>\n"


def _html_cell(value: object) -> str:
    number = "" if isinstance(value, str) else ' class="n"'
    return f"<td{number}>{_safe(_cell(value))}</td>"


def _texts(row: ChangedRow, refs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The parts of a row that are shown, each under its title."""
    if row.prompt is not None:
        yield "Prompt", row.prompt
    if row.reference is not None:
        yield "Expected", row.reference
    for ref, score, prediction in zip(refs, row.scores, row.predictions, strict=True):
        yield f"{ref}: {score:.4g}", "" if prediction is None else prediction


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _safe(text: str) -> str:
    return escape(_shown(text))


def _shown(text: str) -> str:
    """Text without characters that change how the text around them is displayed: control and direction characters
    become '?'.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
