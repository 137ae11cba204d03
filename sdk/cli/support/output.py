"""Data goes to stdout as a table, JSON or bare values, messages go to stderr. Colours only on a terminal.

>>> human_duration(40), human_duration(750), human_duration(18_000), human_duration(300_000)
('40 s', '12 min', '5 h', '3 d')
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from unicodedata import combining, east_asian_width

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sdk.objects import Job

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R", bound="BaseModel | dict[str, Any]")

WIDTH = 80
#: The exit code if a check finds that something is not as it should be.
NOT_AS_IT_SHOULD_BE = 7
_NARROWEST = 8
_CUT_TO = 12
_DIGEST = re.compile(r"[0-9a-f]{64}")


def format_option(command: F) -> F:
    """Add `--format table|json|quiet`."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(["table", "json", "quiet"]),
        default="table",
        show_default=True,
        help="json: one document on stdout; quiet: bare refs, ids or paths.",
    )(command)


def say(text: str) -> None:
    """Print a line for the user on stderr."""
    click.echo(plain(text), err=True)


def say_filled(text: str) -> None:
    """Print a sentence for the user on stderr, in lines of at most 80 columns."""
    click.echo(filled(text), err=True)


def print_made(style: str, document: dict[str, Any], text: str | None, *remarks: str) -> None:
    """Print what a command made or changed: as JSON, or as one text, with remarks for people unless that is to be bare."""
    if style == "json":
        print_json(document)
        return
    click.echo(text)
    if style == "table":
        for remark in remarks:
            say(remark)


def print_done(style: str, document: dict[str, Any], bare: str | None, *sentences: str) -> None:
    """Print what a command did: as JSON, or in sentences for people, and then the bare name that scripts go on with."""
    if style == "json":
        print_json(document)
        return
    for sentence in sentences:
        say(sentence)
    if bare is not None:
        click.echo(bare)


def print_detached(style: str, job: Job[Any]) -> None:
    """Print the id of a detached job, and how to come back to it."""
    document = {"job": job.id, "state": job.view.state.value}
    print_made(style, document, job.id, f"watch it: adapterctl jobs watch {job.id}")


def plain(text: str) -> str:
    """Return untrusted text made safe for a terminal: control, direction and zero-width characters become '?'."""
    return "".join(c if c.isprintable() else "?" for c in text)


def plain_lines(text: str) -> str:
    """Return untrusted text of several lines made safe for a terminal: line breaks and tabs stay.

    >>> plain_lines("two\\nlines\\x1b[2J")
    'two\\nlines?[2J'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def one_line(text: str, most: int = 160) -> str:
    """Return untrusted text as one line, made safe and cut to `most` characters.

    >>> one_line(" two\\n words\\x07", 10), one_line("two words", 9), one_line("two words", 8)
    ('two words?', 'two words', 'two wor…')
    """
    line = plain(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def filled(text: str, first: str = "", later: str | None = None, *, break_long_words: bool = True) -> str:
    """Return untrusted text, made safe, in lines of at most 80 columns, broken at spaces, so that names and commands can be
    copied; further ones begin with `later`, or with room for what the first begins with.

    >>> filled("a" * 70 + " " + "b" * 20, "! ") == "! " + "a" * 70 + "\\n  " + "b" * 20
    True
    """
    import textwrap

    later = " " * len(first) if later is None else later
    return textwrap.fill(
        plain(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=break_long_words,
        break_on_hyphens=False,
    )


def fit(text: str) -> str:
    """Return one line of untrusted text, made safe and cut to the width of the screen."""
    return _cut(plain(text), _terminal_width())


def columns_of(text: str) -> int:
    """How many columns `text` takes on a terminal: two for a wide character, none for one that combines with the one before."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    columns = kept = 0
    for at, character in enumerate(text, start=1):
        columns += columns_of(character)
        if columns > width:
            return text[:kept] + "…"
        if columns < width:
            kept = at
    return text


def print_json(value: Any) -> None:
    """Print the one JSON document, in which models are as they are sent."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    """Return JSON as it may be printed, in which models are as they are sent."""
    dumps = partial(
        json.dumps, indent=2 if sys.stdout.isatty() else None, default=lambda model: model.model_dump(mode="json")
    )
    text = dumps(value, ensure_ascii=False)
    if not text.replace("\n", "").isprintable() or not _can_be_written(text):
        text = dumps(value)
    return text


def writable(text: str) -> str:
    """Return text with escapes for characters that standard output can't encode."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _can_be_written(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def print_rows(
    style: str,
    rows: Sequence[R],
    columns: Sequence[str],
    *,
    key: str,
    empty: str,
    cut: str | None = None,
    spare: Sequence[str] = (),
    shown: Callable[[R], Mapping[str, Any]] = lambda row: {},
) -> None:
    """Print a list: as a table of `columns` within the terminal, as JSON with every field, or one `key` per line.

    `shown` gives the cells of a row, a dict or a model, that are not simply its fields. If the terminal is too narrow,
    the column `cut` is cut before all others, and the columns in `spare` are left out, beginning with the first.
    """
    if style == "json":
        print_json(list(rows))
        return
    cells = [{**(row if isinstance(row, dict) else row.model_dump(mode="json")), **shown(row)} for row in rows]
    if style == "quiet":
        for cell in cells:
            click.echo(cell[key])
    elif not rows:
        say(empty)
    else:
        table = [[_brief(cell.get(column)) for column in columns] for cell in cells]
        left_out = [columns.index(column) for column in spare]
        click.echo(render(columns, table, cut=None if cut is None else columns.index(cut), spare=left_out))


def _brief(value: Any) -> Any:
    """Cut a digest to the 12 digits that refs take."""
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else value


def render(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, cut: int | None = None, spare: Sequence[int] = ()
) -> str:
    """Lay out a table in at most 80 columns if it is piped, or in the terminal's width; long cells are cut with '…'.

    The column `cut` is cut first, then the columns in `spare` are left out, beginning with the first, and then the
    others are cut by their width.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([columns_of(header), *(columns_of(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    room = _terminal_width() - 2 * (len(widths) - 1)
    if cut is not None and sum(widths) > room:
        widths[cut] = max(min(widths[cut], _CUT_TO), widths[cut] - (sum(widths) - room))
    for at, column in enumerate(spare):
        if sum(widths) > room:
            # A name that is cut is useless.
            kept = [i for i in range(len(headers)) if i != column]
            later = [i - (i > column) for i in spare[at + 1 :]]
            least = None if cut in (None, column) else cut - (cut > column)
            return render([headers[i] for i in kept], [[row[i] for i in kept] for row in rows], cut=least, spare=later)
    # No column can have more than the whole width, and a row may be megabytes long.
    widths = [min(width, max(room, _NARROWEST)) for width in widths]
    while sum(widths) > room and max(widths) > _NARROWEST:
        # The first column names the row and is what people copy, so it gives way last.
        others = range(1, len(widths)) if max(widths[1:], default=0) > _NARROWEST else range(1)
        widths[max(others, key=lambda i: widths[i])] -= 1
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(headers))]
    lines = [_line([header.upper().replace("_", " ") for header in headers], widths, numeric)]
    lines += [_line(row, widths, numeric) for row in cells]
    if sys.stdout.isatty():
        lines[0] = click.style(lines[0], bold=True)
    return "\n".join(lines)


def print_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Print names and values, one pair per line."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        label = f"{name:<{width}}"
        click.echo(f"{click.style(label, bold=True) if sys.stdout.isatty() else label}  {_cell(value)}")


def print_one(style: str, document: Any, bare: str | Iterable[object], table: Callable[[], object]) -> None:
    """Print one thing: as JSON, by its bare name or names, one per line, or as `table` prints it."""
    if style == "json":
        print_json(document)
    elif style == "quiet":
        for name in [bare] if isinstance(bare, str) else bare:
            click.echo(name)
    else:
        table()


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return plain(", ".join(map(str, value))) or "-"
    text = str(value)
    # "2026-01-02 03:04" tells people as much as "2026-01-02T03:04:05.678Z".
    if len(text) >= 20 and text[4:5] == "-" and text[10:11] == "T":
        return text[:16].replace("T", " ")
    return plain(text)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    parts = []
    for cell, width, number in zip(cells, widths, numeric, strict=True):
        text = _cut(cell, width)
        room = " " * (width - columns_of(text))
        parts.append(room + text if number else text + room)
    return "  ".join(parts).rstrip()


def human_bytes(count: float) -> str:
    """Return for example "12.3 MB", in decimal units, as for disks and networks."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_duration(seconds: float) -> str:
    """Return "40 s", "12 min", "5 h" or "3 d"."""
    for unit, length_s, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < most * length_s:
            return f"{max(0, int(seconds // length_s))} {unit}"
    return f"{int(seconds // 86_400)} d"


def age_of(moment: datetime) -> str:
    """How long ago a moment was."""
    return human_duration((datetime.now(UTC) - moment).total_seconds())
