"""The options that say which registered base a name means. Every command that takes the name of one has both."""

from __future__ import annotations

from collections.abc import Callable
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
