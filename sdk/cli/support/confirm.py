"""Asking before something is removed. Without a terminal the command doesn't ask: it fails and names `--yes`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sdk.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


def yes_option(command: F) -> F:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Don't ask for confirmation.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless `yes`. Raises InvalidInput if there is none; a "no" ends the command."""
    if yes:
        return
    require_terminal()
    click.confirm(question, abort=True, err=True)


def require_terminal() -> None:
    """Raise InvalidInput if there is no terminal to ask on."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput("there is no terminal to ask on; add --yes to go ahead without asking", param="yes")
