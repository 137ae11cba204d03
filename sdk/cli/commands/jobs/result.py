"""`adapterctl jobs result`: what a job made, for those who didn't wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from sdk.cli.commands.evaluate import print_scores
from sdk.cli.commands.merge import hand_out, require_merged
from sdk.cli.support.output import format_option, print_json
from sdk.cli.support.row_preview import print_preview
from sdk.cli.support.session import open_client
from sdk.config import user_path
from sdk.errors import Conflict
from sdk.pulling.folder import require_free

if TYPE_CHECKING:
    from sdk.objects import Job, MergedModel
    from sdk.schemas.preview import Preview


@click.command(name="result", short_help="Print or write what a job made.")
@click.argument("job_id", metavar="JOB")
@click.option("-o", "--output", help="A new folder for the model of a merge.")
@format_option
def jobs_result(job_id: str, output: str | None, style: str) -> None:
    """Print or write what a job made, as the command that waited for it would have done.

    For an evaluation these are its scores, for a merge the model, for a training or combination the version's ref, and
    for a preview the rows. A job that has not ended yet has no result (exit code 4).

    \b
    Examples:
      adapterctl jobs result 3f1c2a9b7d20
      adapterctl jobs result 3f1c2a9b7d20 -o ./merged
    """
    target = None if output is None else user_path(output)
    if target is not None:
        require_free(target, replaceable=False)
    with open_client() as client:
        job = client.job(job_id)
        view = job.view
        if target is not None and view.kind != "merge":
            raise click.UsageError(f"job {view.id} is no merge but {view.kind}, which makes no folder; leave out -o")
        if not view.state.is_final:
            raise Conflict(f"job {view.id} is {view.state.value}; watch it with: adapterctl jobs watch {view.id}")
        if view.kind == "merge":
            require_merged(cast("Job[MergedModel]", job))
        elif job.error is not None:
            raise job.error
        if view.kind == "evaluation":
            print_scores(client, job, style)
            return
        if view.kind == "merge":
            hand_out(cast("Job[MergedModel]", job), target, style)
            return
        if view.kind == "preview":
            found = cast("Preview", job.result())
            if style == "json":
                print_json(found.model_dump(mode="json"))
            else:
                print_preview(found, quiet=style == "quiet")
            return
    result = view.result or {}
    if style == "json":
        print_json({"ref": result.get("ref"), "job": view.id, "existing": result.get("existing")})
    else:
        click.echo(result.get("ref"))
