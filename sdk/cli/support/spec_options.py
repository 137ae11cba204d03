"""The options of a command that are fields of a spec, made of what the spec says of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from sdk.schemas.codes import plain_type
from sdk.schemas.option_types import Option, options_of
from sdk.schemas.wire import Wire

#: The most characters of a value that are shown to people.
_MOST_SHOWN = 400

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(
    spec: type[Wire],
    names: Collection[str] | None = None,
    *,
    about: str | None = None,
    of_plan: bool = False,
    as_text: bool = False,
) -> Callable[[F], F]:
    """Add an option for each field, or each of some, in the order of the spec; None unless it is given.

    `about` is what a command says of all of them in other words; `of_plan`: defaults are those of a plan; `as_text`: each
    takes any text, which is not read here.
    """

    def decorate(command: F) -> F:
        for name, option in reversed(options_of(spec).items()):
            if names is None or name in names:
                shown = option if about is None else replace(option, help=about)
                if of_plan and isinstance(option.planned, str):
                    shown = replace(shown, default=option.planned)
                command = _made(name, spec.model_fields[name], shown, as_text=as_text)(command)
        return command

    return decorate


def flag_of(name: str) -> str:
    """The flag of a field."""
    return f"--{name.replace('_', '-')}"


def _made(name: str, field: FieldInfo, option: Option, *, as_text: bool) -> Callable[[F], F]:
    flag = flag_of(name)
    kind = plain_type(field.annotation)
    text = _help(option, field.default)
    if as_text:
        text = _help(replace(option, default=option.swept or option.default), field.default)
        return click.option(flag, metavar=option.metavar or _metavar(kind), help=text)
    if kind is bool:
        # One that is not off by default can be switched off.
        both = flag if field.default is False else f"{flag}/--no-{flag[2:]}"
        return click.option(both, is_flag=True, default=None, help=text)
    origin = get_origin(kind)
    # A list is written with commas.
    given = click.Choice(get_args(kind)) if origin is Literal else str if origin is list else kind
    return click.option(flag, type=given, metavar=option.metavar, help=text)


def _metavar(kind: Any) -> str:
    """What stands for a value that is read as a text, as click has it for its type."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {bool: "[true|false]", int: "INTEGER", float: "FLOAT"}.get(kind, "TEXT")


def _help(option: Option, default: Any) -> str:
    said = option.default or (None if default is None or default is False else shown_value(default))
    return f"{option.help} [default: {said}]".lstrip() if said else option.help


def shown_value(value: Any) -> str:
    """The value of an option as people read it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, str) and len(value) > _MOST_SHOWN:
        # A template, or the names of many modules.
        return f"{value[:_MOST_SHOWN].splitlines()[0]}… ({len(value):,} characters)"
    return f"{value:g}" if isinstance(value, float) else str(value)
