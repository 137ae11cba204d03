"""The one place where errors leave the CLI."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
import sys
import traceback
from typing import NoReturn

import click

from sdk.cli.support.hangup import hang_up, lost_terminal
from sdk.cli.support.option_names import unfit_value, with_option_names
from sdk.cli.support.other_names import ours
from sdk.cli.support.output import plain
from sdk.errors import FULL_DISK, AdapterctlError, InvalidInput, Unauthenticated, Unavailable


def leave(error: Exception) -> NoReturn:
    """Print an error to stderr, as a line or as JSON, and exit with its code."""
    if isinstance(error, click.Abort):
        click.echo("aborted", err=True)
        sys.exit(130)
    if isinstance(error, click.exceptions.Exit):
        sys.exit(error.exit_code)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # There is no mistake that a line could name: the help is the answer.
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone, which is fine, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    if lost_terminal(error):
        hang_up()
    known = translated(error)
    if isinstance(known, Unauthenticated):
        _forget_names()
    if isinstance(error, Unavailable) and "check ADAPTERCTL_URL" in error.message:
        known = Unavailable(f"{error.message}{_url_source(error.message)}", param=error.param)
    if isinstance(error, AdapterctlError):
        known.message = with_option_names(known.message, known.param, error)
    if os.environ.get("ADAPTERCTL_DEBUG"):
        traceback.print_exception(error)
    if _wants_json():
        click.echo(known.as_json(), err=True)
    else:
        label = click.style("error:", fg="red", bold=True) if sys.stderr.isatty() else "error:"
        click.echo(f"{label} {plain(known.message)}", err=True)
    sys.exit(known.exit_code)


def _forget_names() -> None:
    """What a token has seen isn't offered after the registry has refused it."""
    from sdk import config
    from sdk.cli.completing.names_file import NamesFile

    with contextlib.suppress(InvalidInput):
        NamesFile(config.load()).forget()


def _url_source(message: str) -> str:
    """Where the URL in a message was configured, to be added to that; nothing if it was given otherwise."""
    from sdk import config

    with contextlib.suppress(InvalidInput):
        url, source = next((value, source) for name, value, source in config.explained() if name == "url")
        return f" (the URL is from {source})" if url in message else " (the URL is the one that was given)"
    return ""


def translated(error: Exception) -> AdapterctlError:
    """Return an error as one of this package's, with what to do next."""
    if isinstance(error, AdapterctlError):
        return error
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "adapterctl"
        if isinstance(error, click.NoSuchOption) and (name := _ours(error)) is not None:
            return InvalidInput(f"there is no option {error.option_name!a}; here it is {name}", param=error.option_name)
        if isinstance(error, click.NoSuchOption):
            near = " or ".join(sorted(error.possibilities or ())[:3])
            hint = f"did you mean {near}?" if near else f"see: {path} --help"
            return InvalidInput(f"there is no option {error.option_name!a}; {hint}", param=error.option_name)
        if isinstance(error, click.BadOptionUsage) and "requires an argument" in error.message:
            return InvalidInput(f"{error.option_name} needs a value; see: {path} --help", param=error.option_name)
        if isinstance(error, click.BadParameter) and (refused := unfit_value(error)) is not None:
            return InvalidInput(refused, param=_param_of(error))
        if (mistaken := _mistaken_argument(error, path)) is not None:
            return InvalidInput(mistaken, param=_param_of(error))
        # Click writes choices one below the other.
        message = " ".join(error.format_message().split()).rstrip(".")
        hint = "" if "see:" in message or "did you mean" in message else f"; see: {path} --help"
        return InvalidInput(f"{message[:1].lower()}{message[1:]}{hint}", param=_param_of(error))
    if isinstance(error, click.ClickException):
        return InvalidInput(error.format_message())
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return Unavailable("the disk is full; free some space, then run the same command again")
    return AdapterctlError(
        f"unexpected {type(error).__name__}: {error}; run it with ADAPTERCTL_DEBUG=1 and report the output"
    )


def _ours(error: click.NoSuchOption) -> str | None:
    """What an option that another program has is called here."""
    params = [] if error.ctx is None else error.ctx.command.params
    return ours(error.option_name, [flag for param in params for flag in param.opts])


#: What click says of an argument that belongs nowhere.
_NO_COMMAND = re.compile(r"No such command ['\"](.*)['\"]\.", re.DOTALL)
_TOO_MANY = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)


def _mistaken_argument(error: click.UsageError, path: str) -> str | None:
    """Say in our words that a command doesn't exist, or takes fewer arguments; None for another mistake."""
    if (found := _NO_COMMAND.match(error.message)) is not None:
        group = None if error.ctx is None else error.ctx.command
        known = list(group.commands) if isinstance(group, click.Group) else []
        near = difflib.get_close_matches(found[1], known, n=1)
        return f"there is no command {found[1]!a}; " + (
            f"did you mean: {path} {near[0]}?" if near else f"see: {path} --help"
        )
    if (found := _TOO_MANY.match(error.message)) is not None:
        return f"too many arguments: {found[1][:200]!a} belongs to none; see: {path} --help"
    return None


def _param_of(error: click.UsageError) -> str | None:
    param = getattr(error, "param", None)
    return param.name if isinstance(param, click.Parameter) else getattr(error, "option_name", None)


def _wants_json() -> bool:
    """Whether `--format json` was given, even if the command line could not be parsed."""
    args = sys.argv[1:]
    return "--format=json" in args or any(a == "--format" and b == "json" for a, b in itertools.pairwise(args))
