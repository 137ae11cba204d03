"""`adapterctl jobs cancel|retry|publish`: commands that act on jobs."""

from __future__ import annotations

import click

from sdk.cli.support.output import format_option, print_json, say
from sdk.cli.support.session import open_client
from sdk.cli.support.values import take_tags


@click.command(name="cancel")
@click.argument("job_id", metavar="JOB")
@format_option
def jobs_cancel(job_id: str, style: str) -> None:
    """Cancel a job; a running one stops within seconds. A job that has succeeded or failed can't be cancelled (exit
    code 4).

    \b
    Example:
      adapterctl jobs cancel 3f1c2a9b7d20
    """
    with open_client() as client:
        view = client.cancel_job(job_id)
    if style == "json":
        print_json(view.model_dump(mode="json"))
        return
    click.echo(view.state.value)
    if style == "table" and not view.state.is_final:
        say(f"asked to stop; see: adapterctl jobs show {job_id}")


@click.command(name="retry", short_help="Submit a failed or cancelled job again.")
@click.argument("job_id", metavar="JOB")
@format_option
def jobs_retry(job_id: str, style: str) -> None:
    """Submit a failed or cancelled job again, and print the new job's id.

    A training resumes from its last checkpoint.

    \b
    Example:
      adapterctl jobs watch $(adapterctl jobs retry 3f1c2a9b7d20)
    """
    with open_client() as client:
        view = client.retry_job(job_id).view
    if style == "json":
        print_json({"job": view.id, "state": view.state.value, "retry_of": view.retry_of})
        return
    click.echo(view.id)
    if style == "table":
        start = view.request.get("from_checkpoint")
        said = "" if start is None else f"resumes from step {start['step']}; "
        say(f"{said}watch it: adapterctl jobs watch {view.id}")


@click.command(name="publish", short_help="Make a version from a checkpoint.")
@click.argument("job_id", metavar="JOB")
@click.option("--step", type=click.IntRange(1), help="The checkpoint's step. [default: the last]")
@click.option("--name", help="The adapter it becomes a version of. [default: the one that the job trains]")
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
        published = client.publish_checkpoint(job_id, step, adapter=name, tags=tags, description=description)
    version = published.version
    if style == "json":
        print_json({"ref": version.ref, "job": job_id, "digest": version.digest, "existing": published.existing})
        return
    if published.existing:
        say("these bytes are already a version")
    click.echo(version.ref)
    if style == "table":
        say(f"see it: adapterctl show {version.ref}")
