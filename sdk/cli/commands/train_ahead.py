"""`adapterctl train --dry-run` and `--explain`: what a training would be, without a job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click

from sdk.cli.commands.plan import planned, print_plan
from sdk.cli.support.explained import explained, print_explained
from sdk.cli.support.output import print_json
from sdk.errors import InvalidInput
from sdk.schemas.planning import PlanOptions
from sdk.schemas.training import TrainingSpec
from sdk.validation import build


def show_ahead(
    options: Mapping[str, Any],
    style: str,
    *,
    in_file: Collection[str],
    given: Collection[str],
    dry_run: bool,
    explain: bool,
) -> None:
    """Print the options of a training and, for a dry run, its plan. Raises InvalidInput, and what a plan raises."""
    fields = {name: value for name, value in options.items() if name in TrainingSpec.model_fields}
    spec = build(TrainingSpec, **fields)
    base = options.get("base")
    if not base:
        raise InvalidInput(
            "what is known ahead follows from a base, and this run names none of its own; give --base", param="base"
        )
    rows = explained(spec, in_file=in_file, on_command_line=given)
    said: dict[str, Any] = {"spec": spec.model_dump(mode="json") | {"alpha": spec.resolved_alpha}}
    if explain:
        said["explained"] = rows
    plan = None
    if dry_run:
        asked = {name: value for name, value in fields.items() if name in PlanOptions.__annotations__}
        # What a job runs with is what it says: nothing is chosen for it.
        plan = planned(str(base), asked | {"method": spec.method, "batch_size": spec.batch_size})
        said["plan"] = plan.model_dump(mode="json")
    if style == "json":
        print_json(said)
        return
    if style == "quiet":
        click.echo(spec.method if plan is None else plan.verdict)
        return
    print_explained(rows if explain else [row for row in rows if row["value"] != row["default"]], about=explain)
    if plan is not None:
        click.echo()
        print_plan(plan)
