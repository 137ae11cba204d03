"""`adapterctl jobs`."""

from __future__ import annotations

import click

from sdk.cli.output import format_option, print_facts, print_json, print_rows, say
from sdk.cli.session import open_client
from sdk.cli.watch import describe, watch


@click.group(name="jobs")
def jobs_command() -> None:
    """List, watch and cancel jobs."""


@jobs_command.command(name="list")
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@format_option
def jobs_list(state: str | None, limit: int, style: str) -> None:
    """List jobs, the newest first.

    \b
    Example:
      adapterctl jobs list --state running
    """
    with open_client() as client:
        rows = [job.view.model_dump(mode="json", exclude={"request"}) for job in client.jobs(state=state, limit=limit)]
    columns = ["id", "kind", "subject", "state", "attempt", "created_at"]
    print_rows(style, rows, columns, key="id", empty="no jobs yet; submit one with: adapterctl train")


@jobs_command.command(name="show")
@click.argument("job_id")
@format_option
def jobs_show(job_id: str, style: str) -> None:
    """Show a job.

    \b
    Example:
      adapterctl jobs show 3f1c2a9b7d20 --format json
    """
    with open_client() as client:
        view = client.job_view(job_id)
    if style == "json":
        print_json(view.model_dump(mode="json"))
    elif style == "quiet":
        click.echo(view.state.value)
    else:
        shown = view.model_dump(mode="json", exclude={"request", "progress", "result"})
        facts = [(key, value) for key, value in shown.items() if value not in (None, False)]
        if view.progress is not None:
            facts.append(("progress", f"{view.progress.phase} {view.progress.step or ''} {describe(view.progress)}"))
        if view.result is not None:
            facts.append(("result", view.result.get("ref") or view.result.get("evaluations")))
        print_facts(facts)


@jobs_command.command(name="watch")
@click.argument("job_id")
def jobs_watch(job_id: str) -> None:
    """Watch a job to its end; Ctrl-C leaves it running.

    \b
    Example:
      adapterctl jobs watch 3f1c2a9b7d20
    """
    with open_client() as client:
        job = watch(client.job(job_id))
    if job.error is not None:
        raise job.error
    say(f"job {job_id} succeeded")


@jobs_command.command(name="wait")
@click.argument("job_ids", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=float, help="Seconds; then exit 8, and the jobs go on.")
def jobs_wait(job_ids: tuple[str, ...], timeout_s: float | None) -> None:
    """Wait for jobs without a word; exit 6 where one failed.

    \b
    Example:
      adapterctl jobs wait 3f1c2a9b7d20 --timeout 3600
    """
    with open_client() as client:
        for job_id in job_ids:
            client.job(job_id).wait(timeout=timeout_s)


@jobs_command.command(name="logs")
@click.argument("job_id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
def jobs_logs(job_id: str, follow: bool) -> None:
    """Print what happened to a job, one JSON object a line.

    \b
    Example:
      adapterctl jobs logs 3f1c2a9b7d20 -f
    """
    with open_client() as client:
        for event in client.job(job_id).events(follow=follow):
            click.echo(event.model_dump_json(exclude_none=True))


@jobs_command.command(name="cancel")
@click.argument("job_id")
@format_option
def jobs_cancel(job_id: str, style: str) -> None:
    """Cancel a job; a running one stops within seconds.

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
