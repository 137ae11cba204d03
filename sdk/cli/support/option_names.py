"""Names of options in errors: the SDK's messages name keywords, a terminal's the options that somebody typed."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

import click
from click.core import ParameterSource

#: What a message begins with that is about one option.
_ABOUT = r"(?=:| (?:can't|is|are|has|needs?|belongs?|looks?|and|changes|says|means|limits)\b)"
#: What advice says to do with an option, and what comes after its name.
_ADVICE = r"(?:(?<=give )|(?<=leave )|(?<=leave out )|(?<=add )|(?<=without )|(?<=share as ))"
_AFTER = r"(?=[,;]|$| out\b| or give\b)"


def with_option_names(message: str, param: str | None, error: BaseException) -> str:
    """Return a message in which fields are called as the options of the command that ended with the error.

    Of a value that a file of options has, it names the file, whose keys are the fields' names.
    """
    ctx = _context_of(error)
    if ctx is None:
        return message
    flags = {
        option.name: max(option.opts, key=len)
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name is not None
    }
    name = (param or "").partition(".")[0]
    file = ctx.params.get("config_file")
    if isinstance(file, str) and name in flags and ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return f"{file}: {message}" if re.match(rf"{name}{_ABOUT}", message) else message
    for field, flag in flags.items():
        if not flag.startswith("--"):
            continue
        if field == name:
            message = re.sub(rf"^{field}{_ABOUT}", flag, message)
        # Names with "_" are no words of a sentence, while those without are only where it advises something.
        alone = rf"(?<![\w'\"`./=-]){field}(?![\w'\"`/=(-]|\.\w)"
        named = rf"^(--[\w-]+ and ){field}(?= )|{_ADVICE}{field}{_AFTER}"
        message = re.sub(alone, flag, message) if "_" in field else re.sub(named, rf"\g<1>{flag}", message)
    return message


def unfit_value(error: click.BadParameter) -> str | None:
    """Return what to say about a value that click refuses, in the words of the SDK; None for a message of another kind."""
    if error.param is None or error.ctx is None:
        return None
    kind = error.param.type
    is_option = isinstance(error.param, click.Option)
    called = max(error.param.opts, key=len) if is_option else error.param.make_metavar(error.ctx).strip("[].")
    if called.startswith("{"):
        # Of an argument with choices, click writes those.
        called = str(error.param.name).upper()
    path = error.ctx.command_path
    if isinstance(error, click.MissingParameter):
        wanted = f"use {_one_of(kind.choices)}" if isinstance(kind, click.Choice) else f"see: {path} --help"
        return f"{called} is missing; {wanted}"
    given = re.match(r"(.*) is not (?:a valid (?:integer|float)|one of|in the range)\b", error.message, re.DOTALL)
    if given is None:
        return f"{called}: {error.message.rstrip('.')}" if ";" in error.message else None
    if isinstance(kind, click.Choice):
        wanted = _one_of(kind.choices)
    else:
        whole = isinstance(kind, type(click.INT))
        least, most = (getattr(kind, end, None) for end in ("min", "max"))
        wanted = f"{'a whole number' if whole else 'a number'}{_between(least, most)}"
    return f"{called} can't be {given[1]}; use {wanted}"


def _one_of(choices: Sequence[object]) -> str:
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def _between(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return f" of at least {least}" if least is not None else "" if most is None else f" of at most {most}"


def _context_of(error: BaseException) -> click.Context | None:
    """Return the context of the command that raised an error: click has left it by the time that the error is shown."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(ctx := frame.f_locals.get("ctx"), click.Context):
            found = ctx
    return found
