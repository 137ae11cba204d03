"""The options of a training before there is a job: each with its value, the source of that, its default and its description."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import click

from sdk.cli.support.output import WIDTH, plain
from sdk.schemas.training import TrainingSpec


def explained(
    spec: TrainingSpec, *, in_file: Collection[str], on_command_line: Collection[str]
) -> list[dict[str, Any]]:
    """Return option, value, source, default and description of each field, in the order of the record."""
    from sdk.schemas.field_comments import field_comments

    about, rows = field_comments(TrainingSpec), []
    for name, field in TrainingSpec.model_fields.items():
        value, source = getattr(spec, name), "default"
        if name in on_command_line:
            source = "command line"
        elif name in in_file:
            source = "file"
        elif name == "alpha" and value is None:
            value, source = spec.resolved_alpha, "2·rank"
        elif value is None:
            source = "default; the job resolves it" if name in _RESOLVED else "default"
        default = field.get_default()
        rows.append({"option": name, "value": value, "from": source, "default": default, "about": about.get(name, "")})
    return rows


#: Fields for which None means that rows or base decide.
_RESOLVED = ("objective", "loss_on", "packing")


def print_explained(rows: Collection[Mapping[str, Any]], *, about: bool) -> None:
    """Print the options, with `about` each with its description below."""
    for row in rows:
        default = "" if row["from"].startswith("default") else f"; default {_shown(row['default'])}"
        click.echo(_filled(f"{row['option']} = {_shown(row['value'])}  ({row['from']}{default})", ""))
        if about and row["about"]:
            click.echo(_filled(row["about"], "    "))


def _shown(value: Any) -> str:
    return (
        "none"
        if value is None
        else "yes"
        if value is True
        else "no"
        if value is False
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(
        plain(text), WIDTH, initial_indent=indent, subsequent_indent=indent or "    ", break_on_hyphens=False
    )
