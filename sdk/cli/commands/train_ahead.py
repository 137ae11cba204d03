"""`adapterctl train --dry-run` and `--explain`: what a training would be, without a job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click

from sdk.cli.commands.plan import planned, print_plan
from sdk.cli.support.explained import explained, print_explained
from sdk.cli.support.output import print_json
from sdk.errors import InvalidInput
from sdk.names import check_name
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_options import PlanOptions
from sdk.submitting.given_sources import sources_of
from sdk.submitting.job_options import checkpoint_policy, checkpoint_ref, job_options
from sdk.validation import build, check_held_out


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
    spec = _checked(name, options, fields)
    base = options["base"]
    rows = explained(spec, in_file=in_file, on_command_line=given)
    said: dict[str, Any] = {"spec": spec.model_dump(mode="json") | {"alpha": spec.resolved_alpha}}
    if explain:
        said["explained"] = rows
    plan = None
    if dry_run:
        asked = {name: value for name, value in fields.items() if name in {"method", *PlanOptions.__annotations__}}
        plan = planned(str(base), options.get("base_namespace"), options.get("published"), asked | {"as_given": True})
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
