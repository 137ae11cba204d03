"""The options of a command that are fields of a spec, made of what the spec says of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args, get_origin

import click

from sdk.schemas.codes import plain_type
from sdk.schemas.option_types import Option, options_of
from sdk.schemas.wire import Wire

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(
    spec: type[Wire],
    names: Collection[str] | None = None,
    *,
    help_of: Mapping[str, str] | None = None,
    about: str | None = None,
) -> Callable[[F], F]:
    """Add an option for each field, or each of some, in the order of the spec; None unless it is given.

    `help_of` has what a command says of some of them in other words, with the default, and `about` what it says of all.
    """

    def decorate(command: F) -> F:
        for name, option in reversed(options_of(spec).items()):
            if names is None or name in names:
                text = (help_of or {}).get(name) or _help(
                    option if about is None else replace(option, help=about), spec.model_fields[name].default
                )
                command = _made(name, spec.model_fields[name].annotation, option, text)(command)
        return command

    return decorate


def _made(name: str, annotation: Any, option: Option, text: str) -> Callable[[F], F]:
    flag = f"--{name.replace('_', '-')}"
    kind = plain_type(annotation)
    if kind is bool:
        # One that is on by default can be switched off.
        both = f"{flag}/--no-{flag[2:]}" if "default: yes" in text else flag
        return click.option(both, is_flag=True, default=None, help=text)
    origin = get_origin(kind)
    # A list is written with commas.
    given = click.Choice(get_args(kind)) if origin is Literal else str if origin is list else kind
    return click.option(flag, type=given, metavar=option.metavar, help=text)


def _help(option: Option, default: Any) -> str:
    said = option.default or (None if default is None or default is False else shown_value(default))
    return f"{option.help} [default: {said}]".lstrip() if said else option.help


def shown_value(value: Any) -> str:
    """The value of an option as people read it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
