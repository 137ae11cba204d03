"""The curve of a job on a terminal, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import click

from sdk.cli.support.output import WIDTH
from sdk.errors import AdapterctlError

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.plotting.canvas import Role, Row
    from sdk.plotting.curves import Curve
    from sdk.schemas.jobs import JobView

_COLOURS: dict[Role, str] = {"axis": "bright_black", "loss": "blue", "held-out": "yellow", "best": "green"}
#: In fewer columns no curve can be read.
_NARROWEST = 40


def curve_of(client: Client, view: JobView) -> Curve | None:
    """Return the curve of a training; None if it has no points, or they can't be had now: what it is shown beside is there
    all the same.
    """
    from sdk.examining.curves import curve_of_job

    if view.kind != "training":
        return None
    with suppress(AdapterctlError):
        found = curve_of_job(client, view)
        return None if found.is_empty else found
    return None


def curve_lines(curve: Curve | None, stream: TextIO) -> list[str]:
    """Return the lines of a curve for a stream; see `drawn_lines`."""
    if curve is None:
        return []
    from sdk.plotting.terminal import rows_of

    return drawn_lines(stream, lambda width, plain: rows_of(curve, width=width, plain=plain))


def drawn_lines(stream: TextIO, rows_of: Callable[[int, bool], list[Row]]) -> list[str]:
    """Return the lines of what `rows_of` draws in so many columns for a stream: none if it is not a terminal, or too narrow; in
    ASCII and without colours on one that can't do more.
    """
    columns = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    if not stream.isatty() or columns < _NARROWEST:
        return []
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    plain = dumb or not (stream.encoding or "").lower().replace("-", "").startswith("utf8")
    coloured = not dumb and not os.environ.get("NO_COLOR")
    return [
        "".join(click.style(text, fg=_COLOURS[role]) if coloured and text.strip() else text for text, role in row)
        for row in rows_of(columns, plain)
    ]
