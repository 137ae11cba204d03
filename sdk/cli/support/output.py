"""Data goes to stdout as a table, JSON or bare values, messages go to stderr. Colours only on a terminal.

>>> human_duration(40), human_duration(750), human_duration(18_000), human_duration(300_000)
('40 s', '12 min', '5 h', '3 d')
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from sdk.cli.support.layout import Strip, cut_to, laid_out

if TYPE_CHECKING:
    from sdk.objects import Job

F = TypeVar("F", bound=Callable[..., Any])

WIDTH = 80
#: The exit code if a check finds that something is not as it should be.
NOT_AS_IT_SHOULD_BE = 7
#: Whether a table was asked for by name: then it is drawn in a pipe, too.
_ASKED = "sdk.cli.table_asked"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*")


def format_option(command: F) -> F:
    """Add `--format table|json|quiet`."""
    return format_option_of(
        "table", "json", "quiet", says="json: one document on stdout; quiet: bare refs, ids or paths."
    )(command)


def format_option_of(*styles: str, says: str) -> Callable[[F], F]:
    """Add `--format` with these choices, of which the first is what people see without it."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(styles),
        default=styles[0],
        show_default=True,
        callback=keep_asked,
        help=says,
    )


def keep_asked(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The callback of `--format`: note whether a table was asked for by name."""
    source = ctx.get_parameter_source(param.name or "")
    ctx.meta[_ASKED] = source not in (None, click.core.ParameterSource.DEFAULT)
    return value


def is_piped() -> bool:
    """Whether what is printed goes to a program: stdout is not a terminal, and no `--format table` was given."""
    ctx = click.get_current_context(silent=True)
    return not sys.stdout.isatty() and not (ctx is not None and ctx.meta.get(_ASKED))


def say(text: str) -> None:
    """Print a line for the user on stderr."""
    click.echo(plain(text), err=True)


def say_filled(text: str) -> None:
    """Print a sentence for the user on stderr, in lines of the terminal's width."""
    click.echo(filled(text, width=screen_width(sys.stderr)), err=True)


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


def filled(
    text: str, first: str = "", later: str | None = None, *, break_long_words: bool = True, width: int | None = None
) -> str:
    """Return untrusted text, made safe, in lines of at most `width` columns (by default those of the terminal, or 80), broken
    at spaces, so that names and commands can be copied; further ones begin with `later`, or with room for what the first
    begins with.

    >>> filled("a" * 70 + " " + "b" * 20, "! ") == "! " + "a" * 70 + "\\n  " + "b" * 20
    True
    """
    import textwrap

    later = " " * len(first) if later is None else later
    return textwrap.fill(
        plain(text),
        screen_width() if width is None else width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=break_long_words,
        break_on_hyphens=False,
    )


def fit(text: str) -> str:
    """Return one line of untrusted text, made safe and cut to the width of the screen."""
    return cut_to(plain(text), screen_width())


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


def brief(value: Any) -> Any:
    """Cut a digest to the 12 digits that refs take."""
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else value


def render(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, cut: int | None = None, spare: Sequence[int] = ()
) -> str:
    """Lay out a table in the terminal's width, or in 80 columns.

    The column `cut` is cut first, then the columns in `spare` are left out, beginning with the first, and then others.
    """
    strips = [
        Strip(
            header.upper().replace("_", " "),
            [cell(row[at]) for row in rows],
            importance=1 + list(spare).index(at) if at in spare else 9,
            may_be_cut=at == cut,
            on_the_right=all(_is_number(row[at]) for row in rows),
        )
        for at, header in enumerate(headers)
    ]
    found = laid_out(strips, screen_width())
    lines = found.lines
    if sys.stdout.isatty():
        lines[0] = click.style(lines[0], bold=True)
    return "\n".join([*lines, *([no_room_for(found.left_out)] if found.left_out else [])])


def no_room_for(headers: Sequence[str]) -> str:
    """Say which columns a terminal was too narrow for."""
    return filled(f"no room for: {', '.join(headers).lower()}; a wider terminal, a pipe or --format json has all")


def print_one(style: str, document: Any, bare: str | Iterable[object], table: Callable[[], object]) -> None:
    """Print one thing: as JSON, by its bare name or names, one per line, or as `table` prints it."""
    if style == "json":
        print_json(document)
    elif style == "quiet":
        for name in [bare] if isinstance(bare, str) else bare:
            click.echo(name)
    else:
        table()


def screen_width(stream: TextIO | None = None) -> int:
    """How many columns there are: COLUMNS, or else those of the terminal that a stream, by default stdout, is; in a pipe 80,
    or what COLUMNS says for a table that was asked for there.
    """
    import os
    import shutil

    stream = stream or sys.stdout
    if not stream.isatty():
        return WIDTH if is_piped() else shutil.get_terminal_size((WIDTH, 24)).columns
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def cell(value: Any) -> str:
    """Return a value on one line for people, made safe: a number with four digits, a moment as a clock here shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return local_time(value)
    if isinstance(value, (list, tuple)):
        return plain(", ".join(map(str, value))) or "-"
    text = str(value)
    if _MOMENT.fullmatch(text) and (moment := moment_of(text)) is not None:
        return local_time(moment)
    return plain(text)


def moment_of(value: Any) -> datetime | None:
    """Return the moment that a value is, or says; None for another text."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def local_time(moment: datetime) -> str:
    """Return a moment as a clock here shows it, with the zone."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone():%Y-%m-%d %H:%M %Z}"


def human_bytes(count: float) -> str:
    """Return for example "12.3 MB", in decimal units, as for disks and networks."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def size_of(count: float) -> str:
    """Return a number of bytes as a record shows it: "12.3 MB" to people, and whole in a pipe."""
    return f"{count:.0f} B" if is_piped() else human_bytes(count)


def human_duration(seconds: float) -> str:
    """Return "40 s", "12 min", "5 h" or "3 d"."""
    for unit, length_s, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < most * length_s:
            return f"{max(0, int(seconds // length_s))} {unit}"
    return f"{int(seconds // 86_400)} d"


def relative_time(moment: datetime) -> str:
    """Return "5 h ago", or "in 3 d" for what is to come."""
    ahead_s = (moment - datetime.now(UTC)).total_seconds()
    return f"in {human_duration(ahead_s)}" if ahead_s > 0 else f"{human_duration(-ahead_s)} ago"
