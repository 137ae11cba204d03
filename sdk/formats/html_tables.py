"""Tables and facts as HTML for a notebook: every text is escaped, nothing is loaded, and colours are those of the page.

No script, no style sheet, no link: what others have written into a name or a note is text and nothing else. What is
inherited, as colours are, can be read on a light page and on a dark one.

>>> table("scores", ["ref", "loss"], [["a@v1", 0.5], ["<b>", None]]).count("<b>")
0
>>> cell(0.123456), cell(None), cell(["a", "b"]), cell("two\\nlines")
('0.1235', '', 'a, b', 'two lines')
>>> cell(134515008.0), cell(2.0)
('134515008', '2')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from itertools import islice

#: The most rows of a table, and the most characters of a cell.
MOST_ROWS, MOST_CHARACTERS = 50, 160
#: From how many characters on a text may be broken anywhere.
_LONG = 40
#: A line that can be seen on white and on black.
_LINE = "border:0;border-bottom:1px solid rgba(128,128,128,.45)"
_PLAIN = "background:transparent;color:inherit;padding:.25em .75em;vertical-align:top"


def page(*parts: str) -> str:
    """Return several parts as one."""
    return f'<div style="overflow-x:auto;color:inherit">{"".join(parts)}</div>'


def sentence(text: str) -> str:
    """Return a sentence as a paragraph."""
    return f'<p style="margin:.4em 0;color:inherit">{_text(text, most=10 * MOST_CHARACTERS)}</p>'


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[object]], *, most: int = MOST_ROWS) -> str:
    """Return a table whose rows begin with what they are about; a sentence says if there are more than `most`.

    Numbers are at the right, texts at the left.
    """
    every = iter(rows)
    shown = list(islice(every, most))
    left = sum(1 for _ in every)
    head = "".join(
        f'<th scope="col" style="{_side(shown, at)};{_LINE};{_PLAIN}">{_text(name)}</th>'
        for at, name in enumerate(headers)
    )
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in shown)
    made = (
        f'<table style="border-collapse:collapse;color:inherit;background:transparent">{_caption(caption)}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return made + (sentence(f"The first {len(shown)} of {len(shown) + left} are shown.") if left else "")


def facts(caption: str, named: Iterable[tuple[str, object]]) -> str:
    """Return names with their values, one below the other; a name that is empty goes on with the one above."""
    body = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:600;white-space:nowrap;{_LINE};{_PLAIN}">{_text(name)}</th>'
        f'<td style="text-align:left;{_LINE};{_PLAIN}">{_text(cell(value, most=4 * MOST_CHARACTERS))}</td></tr>'
        for name, value in named
    )
    return (
        f'<table style="border-collapse:collapse;color:inherit;background:transparent">{_caption(caption)}'
        f"<tbody>{body}</tbody></table>"
    )


def progress_bar(text: str, share: float | None) -> str:
    """Return a bar with its words; without a `share`, from 0 to 1, it only says that something goes on."""
    value = "" if share is None else f' value="{min(max(share, 0.0), 1.0):.4f}"'
    label = _text(text)
    return (
        f'<div style="color:inherit"><progress max="1"{value} aria-label="{label}" style="width:16em;vertical-align:middle">'
        f'</progress> <span style="padding-left:.5em">{label}</span></div>'
    )


def cell(value: object, *, most: int = MOST_CHARACTERS) -> str:
    """Return a value as a text of one line that is cut after `most` characters."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float() if value.is_integer() and 1000 <= abs(value) < 1e15:
            # A count, whose last digits mean something.
            return f"{value:.0f}"
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}" + (" UTC" if value.tzinfo else "")
        case dict():
            text = ", ".join(f"{key}={cell(one)}" for key, one in islice(value.items(), most))
        case list() | tuple():
            text = ", ".join(cell(one) for one in islice(value, most))
        case _:
            # A text that is cut first is looked at no further than it is shown.
            text = str(value)[: 4 * most]
    text = plain(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plain(text: str) -> str:
    """Return a text of others as one line: what can't be seen, or turns the direction of what follows, becomes a "?"."""
    return "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))


def _text(text: str, *, most: int = 4 * MOST_CHARACTERS) -> str:
    return escape(cell(text, most=most))


def _caption(text: str) -> str:
    style = "caption-side:top;text-align:left;font-weight:600;white-space:nowrap;color:inherit;padding:.25em .75em"
    return f'<caption style="{style}">{_text(text)}</caption>'


def _side(rows: Sequence[Sequence[object]], at: int) -> str:
    numbers = [row[at] for row in rows if at < len(row) and row[at] is not None]
    return "text-align:right" if numbers and all(_is_number(one) for one in numbers) else "text-align:left"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cells(row: Sequence[object]) -> Iterable[str]:
    for at, value in enumerate(row):
        side = "text-align:right;font-variant-numeric:tabular-nums" if _is_number(value) else "text-align:left"
        name, scope = ("th", ' scope="row"') if at == 0 else ("td", "")
        weight = (
            "font-weight:600;white-space:nowrap;"
            if at == 0
            else "white-space:nowrap;"
            if isinstance(value, datetime)
            # A text of others may be one long word, which would make the table wider than the page.
            else "overflow-wrap:anywhere;min-width:6em;"
            if isinstance(value, str) and len(value) > _LONG
            else ""
        )
        yield f'<{name}{scope} style="{side};{weight}{_LINE};{_PLAIN}">{escape(cell(value))}</{name}>'
