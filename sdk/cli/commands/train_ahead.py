"""`adapterctl train --dry-run` and `--explain`: what a training would be, without a job.

Each option has its value, the source of that, its default and its description.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from sdk.cli.commands.plan import PLANNED_VALUES, planned, planned_value, planned_values, print_plan
from sdk.cli.support.output import filled, is_piped, print_json
from sdk.cli.support.session import open_client
from sdk.cli.support.spec_options import shown_value
from sdk.errors import InvalidInput
from sdk.examining.planning import given_to_plan
from sdk.formats.base_files import CONFIG_FILE, positions_of
from sdk.given_values import build
from sdk.names import check_name
from sdk.pushing.base_folder import read_base_config
from sdk.schemas.option_types import options_of
from sdk.schemas.training import PLANNED, TrainingSpec
from sdk.submitting.given_data import objective_of_files, sources_of
from sdk.submitting.given_template import with_template_text
from sdk.submitting.job_options import checkpoint_policy, checkpoint_ref, job_options
from sdk.validation import check_held_out


def show_ahead(
    name: str,
    options: Mapping[str, Any],
    style: str,
    *,
    in_file: Collection[str],
    given: Collection[str],
    dry_run: bool,
    explain: bool,
) -> None:
    """Print the options of a training and, for a dry run, its plan. Raises what a submit without rows, or a plan, raises."""
    fields = {name: value for name, value in options.items() if name in TrainingSpec.model_fields}
    with ExitStack() as stack:
        fields = with_template_text(fields, lambda: stack.enter_context(open_client()))
    spec = _checked(name, options, fields)
    base = options["base"]
    rows = explained(spec, in_file=in_file, on_command_line=given)
    if explain and spec.objective is None and options.get("data") is not None:
        _name_objective(rows, objective_of_files(options["data"], spec.columns))
    said: dict[str, Any] = {"spec": spec.model_dump(mode="json") | {"alpha": spec.resolved_alpha}}
    if explain:
        said["explained"] = rows
    plan = None
    if dry_run:
        asked = {name: value for name, value in fields.items() if name in {"method", *PLANNED}}
        plan = planned(str(base), options.get("base_namespace"), options.get("published"), asked | {"as_given": True})
        said["plan"] = plan.model_dump(mode="json")
    _name_positions(
        rows, spec, given_to_plan(str(base), options.get("base_namespace"), options.get("published")).folder
    )
    if style == "json":
        print_json(said)
        return
    if style == "quiet":
        click.echo(spec.method if plan is None else plan.verdict)
        return
    if is_piped():
        shown = rows if explain else [row for row in rows if row["value"] != row["default"]]
        values = [
            planned_value("setting", row["option"], row["value"], note=_noted(row, about=explain)) for row in shown
        ]
        PLANNED_VALUES.print("table", [*values, *([] if plan is None else planned_values(plan))], empty="")
        return
    print_explained(rows if explain else [row for row in rows if row["value"] != row["default"]], about=explain)
    if plan is not None:
        click.echo()
        print_plan(plan)


def _checked(name: str, options: Mapping[str, Any], fields: Mapping[str, Any]) -> TrainingSpec:
    """Return the spec of a training whose options a submit would accept. Raises InvalidInput, InvalidName, NotFound."""
    for option, flag in (("like", "--like"), ("parent", "--from")):
        if options.get(option):
            raise InvalidInput(
                f"the options of {flag} {str(options[option])[:80]} are in its record, which is read when the job is submitted; "
                f"leave out --dry-run and --explain, or {flag}",
                param=option,
            )
    check_name(name)
    spec = build(TrainingSpec, **fields)
    if options.get("data") is not None:
        sources_of(options["data"])
    check_held_out(spec, eval_data=options.get("eval_data"))
    job_options(options.get("priority", 0), options.get("timeout"), options.get("device"), options.get("memory"))
    checkpoint_policy(options.get("checkpoint_every"))
    checkpoint_ref(options.get("from_checkpoint"))
    if not options.get("base"):
        raise InvalidInput("what is known ahead of a training follows from its base; give --base", param="base")
    return spec


def explained(
    spec: TrainingSpec, *, in_file: Collection[str], on_command_line: Collection[str]
) -> list[dict[str, Any]]:
    """Return option, value, source, default and description of each field, in the order of the record."""
    from sdk.schemas.field_comments import field_comments

    about, options, rows = field_comments(TrainingSpec), options_of(TrainingSpec), []
    about["optim"] = f"{about['optim']} {spec.optim} {spec.optimizer.about}."
    for name, field in TrainingSpec.model_fields.items():
        value, source = getattr(spec, name), "default"
        if name in on_command_line:
            source = "command line"
        elif name in in_file:
            source = "file"
        elif name == "alpha" and value is None:
            value, source = spec.resolved_alpha, "2·rank"
        elif value is None:
            source = "default; the job resolves it" if options[name].resolved else "default"
        default = field.get_default()
        rows.append({"option": name, "value": value, "from": source, "default": default, "about": about.get(name, "")})
    return rows


def _name_objective(rows: Collection[dict[str, Any]], objective: str | None) -> None:
    """Say which objective the rows of a training are for, where they are a file here."""
    for row in rows:
        if row["option"] == "objective" and objective is not None:
            row |= {"value": objective, "from": "default, by the rows"}


def _name_positions(rows: Collection[dict[str, Any]], spec: TrainingSpec, folder: Path | None) -> None:
    """Say where rows are cut really, if the base in a folder has fewer positions than the longest row may have tokens."""
    path = None if folder is None else folder / CONFIG_FILE if folder.is_dir() else folder
    if path is None or not path.is_file():
        return
    positions = positions_of(read_base_config(path))
    if positions is None or positions >= spec.max_length:
        return
    for row in rows:
        if row["option"] == "max_length":
            row["from"] += f"; rows are truncated to {positions}, since the base has no more positions"


def _noted(row: Mapping[str, Any], *, about: bool) -> str:
    return f"{_source(row)}: {row['about']}" if about and row["about"] else _source(row)


def _source(row: Mapping[str, Any]) -> str:
    """Say where the value of an option is from, and its default if it is another."""
    source = str(row["from"])
    return source if source.startswith("default") else f"{source}; default {shown_value(row['default'])}"


def print_explained(rows: Collection[Mapping[str, Any]], *, about: bool) -> None:
    """Print the options, with `about` each with its description below."""
    for row in rows:
        click.echo(filled(f"{row['option']} = {shown_value(row['value'])}  ({_source(row)})", "", "    "))
        if about and row["about"]:
            click.echo(filled(row["about"], "    "))
