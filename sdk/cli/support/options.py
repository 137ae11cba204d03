"""Options that several commands have: whose base or scores are meant, and whether something is removed without asking; and
sizes, moments and tags as people write them.

>>> parse_size("500MB"), parse_size("10 GB"), parse_size("2GiB"), parse_size("1234"), parse_size("much")
(500000000, 10000000000, 2147483648, 1234, None)
>>> parse_moment("2d", now=datetime(2026, 1, 31, tzinfo=UTC)).isoformat()
'2026-01-29T00:00:00+00:00'
>>> parse_moment("2026-01-31 12:30").isoformat()
'2026-01-31T12:30:00+00:00'
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def whose_base_options(command: F) -> F:
    """Add `--base-namespace NAMESPACE` and `--published`, None unless they are given."""
    for option in (
        click.option(
            "--published", is_flag=True, default=None, help="The base's name means the one that is published for all."
        ),
        click.option("--base-namespace", metavar="NAMESPACE", help="The base's name means that namespace's own base."),
    ):
        command = option(command)
    return command


require_worker_option = click.option(
    "--require-worker",
    is_flag=True,
    default=None,
    help="Refuse it (exit code 9) if no worker that is there now can run it. [default: it waits for one]",
)
scores_of_option = click.option(
    "--scores-of",
    metavar="NAMESPACE|*",
    help="Take the scores that this namespace made, '*': any that you may read. [default: each version's own]",
)


def yes_option(command: F) -> F:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Don't ask for confirmation.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless `yes`. Raises InvalidInput if there is none; a "no" ends the command."""
    if yes:
        return
    require_terminal()
    click.confirm(question, abort=True, err=True)


def confirm_by_typing(question: str, expected: str, *, yes: bool) -> None:
    """Ask for a name to be typed unless `yes`. Raises InvalidInput for another text, and if there is no terminal."""
    if yes:
        return
    require_terminal()
    if click.prompt(question, default="", show_default=False, err=True).strip() != expected:
        from sdk.errors import InvalidInput

        raise InvalidInput(f"that is not {expected}; nothing was done", param="yes")


def require_terminal() -> None:
    """Raise InvalidInput if there is no terminal to ask on."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        from sdk.errors import InvalidInput

        raise InvalidInput("there is no terminal to ask on; add --yes to go ahead without asking", param="yes")


_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?)b?|b)?", re.IGNORECASE | re.ASCII)
_AGO = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_size(text: str) -> int | None:
    """Return bytes for "10GB", "500 MB", "2GiB" or "1234"; None if it isn't a size. Units are decimal except KiB…TiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    power = " kmgt".index((match[2] or " ").lower())
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power) if power or "." in match[1] else int(match[1])


def parse_moment(text: str, *, now: datetime | None = None) -> datetime | None:
    """Return the moment of "2d" (that long ago), or of an ISO date or time, in UTC if it names no zone; None if it is
    neither.
    """
    match = _AGO.fullmatch(text.strip())
    try:
        if match is not None:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def take_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """The callback of an option that takes a moment. Raises BadParameter."""
    moment = None if value is None else parse_moment(value)
    if value is not None and moment is None:
        raise click.BadParameter(
            f"{value!a} is not a time; write 30m, 12h or 2d for that long ago, or 2026-01-31T12:00", ctx, param
        )
    return moment


def take_tags(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """The callback of `--tag`. Raises BadParameter."""
    tags = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!a} is not a tag; write it as key=value")
        tags[key] = text
    return tags
