"""`adapterctl jobs cancel|retry|publish|result`: commands that act on jobs, and what a job made."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from sdk.cli.commands.evaluate import print_scores
from sdk.cli.commands.jobs.show import changes_since
from sdk.cli.commands.merge import hand_out, require_merged
from sdk.cli.completing.kinds import ADAPTER, FOLDER, JOB
from sdk.cli.support.data_pages import print_preview
from sdk.cli.support.options import take_tags
from sdk.cli.support.output import format_option, print_made, say
from sdk.cli.support.session import open_client
from sdk.config import user_path
from sdk.errors import Conflict
from sdk.pulling.folder import require_free

if TYPE_CHECKING:
    from sdk.objects import Job, MergedModel
    from sdk.schemas.preview import Preview


@click.command(name="cancel")
@click.argument("job_id", type=JOB, metavar="JOB")
@format_option
def jobs_cancel(job_id: str, style: str) -> None:
    """Cancel a job; a running one stops within seconds. A job that has succeeded or failed can't be cancelled (exit
    code 4).

    \b
    Example:
      adapterctl jobs cancel 3f1c2a9b7d20
    """
    with open_client() as client:
        view = client.jobs.cancel(job_id)
    stops = [] if view.state.is_final else [f"asked to stop; see: adapterctl jobs show {job_id}"]
    print_made(style, view.model_dump(mode="json"), view.state.value, *stops)


@click.command(name="retry", short_help="Submit a job again, or changed as it is advised.")
@click.argument("job_id", type=JOB, metavar="JOB")
@click.option("--advice", is_flag=True, help="Change what the training's own numbers advise; also after a success.")
@format_option
def jobs_retry(job_id: str, advice: bool, style: str) -> None:
    """Submit a failed or cancelled job again, and print the new job's id.

    A training resumes from its last checkpoint. With --advice it starts from scratch, with the options that its own numbers advise,
    which `jobs show` prints; without any advice the job is refused (exit code 4).

    \b
    Examples:
      adapterctl jobs watch $(adapterctl jobs retry 3f1c2a9b7d20)
      adapterctl jobs retry 3f1c2a9b7d20 --advice
    """
    with open_client() as client:
        view = client.jobs.retry(job_id, advice=advice).view
        changed = changes_since(client, view)
    start = view.request.get("from_checkpoint")
    said = "" if start is None else f"resumes from step {start['step']}; "
    said += f"{changed}; " if changed else ""
    document = {"job": view.id, "state": view.state.value, "retry_of": view.retry_of}
    print_made(style, document, view.id, f"{said}watch it: adapterctl jobs watch {view.id}")


@click.command(name="publish", short_help="Make a version from a checkpoint.")
@click.argument("job_id", type=JOB, metavar="JOB")
@click.option("--step", type=click.IntRange(1), help="The checkpoint's step. [default: the last]")
@click.option(
    "--name", type=ADAPTER, help="The adapter it becomes a version of. [default: the one that the job trains]"
)
@click.option("--tag", "tags", multiple=True, callback=take_tags, metavar="KEY=VALUE")
@click.option("--description", default="", help="What the version is for.")
@format_option
def jobs_publish(
    job_id: str, step: int | None, name: str | None, tags: dict[str, str], description: str, style: str
) -> None:
    """Make a version from a training's checkpoint, and print its ref; the job may still be running.

    \b
    Examples:
      adapterctl jobs publish 3f1c2a9b7d20 --step 200
      adapterctl jobs publish 3f1c2a9b7d20 --step 200 --name team/early
    """
    with open_client() as client:
        published = client.jobs.publish_checkpoint(job_id, step, adapter=name, tags=tags, description=description)
    version = published.version
    if published.existing and style != "json":
        say("these bytes are already a version")
    document = {"ref": version.ref, "job": job_id, "digest": version.digest, "existing": published.existing}
    print_made(style, document, version.ref, f"see it: adapterctl show {version.ref}")


@click.command(name="result", short_help="Print or write what a job made.")
@click.argument("job_id", type=JOB, metavar="JOB")
@click.option("-o", "--output", type=FOLDER, help="A new folder for the model of a merge.")
@format_option
def jobs_result(job_id: str, output: str | None, style: str) -> None:
    """Print or write what a job made, as the command that waited for it would have done.

    For an evaluation these are its scores, for a merge its report, and with -o the model, for a training or combination the
    version's ref, and for a preview the rows. A job that has not ended yet has no result (exit code 4).

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
            raise click.UsageError(f"job {view.id} is not a merge but {view.kind}, which makes no folder; leave out -o")
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
            print_preview(cast("Preview", job.result()), style)
            return
    result = view.result or {}
    print_made(style, {"ref": result.get("ref"), "job": view.id, "existing": result.get("existing")}, result.get("ref"))
