"""`adapterctl jobs watch|wait|logs`: following jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sdk.cli.commands.jobs.show import result_command
from sdk.cli.commands.watch import told, watch_all
from sdk.cli.completing.kinds import JOB
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.curves import curve_of
from sdk.cli.support.endings import say_ending
from sdk.cli.support.listings import Listing, listed, no_header_option
from sdk.cli.support.output import format_option_of, is_piped, plain, say
from sdk.cli.support.session import open_client
from sdk.errors import JobFailed, NotFound
from sdk.objects import Job, Result
from sdk.schemas.events import Event
from sdk.schemas.failures import FailureReason
from sdk.schemas.jobs import JobView
from sdk.submitting.job_options import parse_duration
from sdk.submitting.job_output import follow

if TYPE_CHECKING:
    from sdk.client import Client


@click.command(name="watch", short_help="Watch jobs until they end.")
@click.argument("job_ids", type=JOB, metavar="[JOB…]", nargs=-1)
def jobs_watch(job_ids: tuple[str, ...]) -> None:
    """Watch jobs until they end, with a bar for each; Ctrl-C leaves them running. Without JOB: the newest that has not ended.

    Of a training its curve stays on the terminal, and how loss, held-out loss, time and memory were.
    Exits with 6 if one failed or was cancelled. Keeps watching while the registry is away.

    \b
    Examples:
      adapterctl jobs watch
      adapterctl jobs watch 3f1c2a9b7d20
      adapterctl jobs watch $(adapterctl jobs list --state running --format quiet)
    """
    with open_client() as client:
        jobs = [client.job(job_id) for job_id in dict.fromkeys(job_ids)] or [_newest(client)]
        watch_all(jobs)
        curves = {job.id: curve_of(client, job.view) for job in jobs if job.error is None}
    for job in jobs:
        if job.error is None:
            say(f"job {job.id} succeeded; see: {result_command(job.view)}")
            if job.view.kind == "training":
                say_ending(job.view, curves[job.id], drawn=len(jobs) == 1)
        elif len(jobs) > 1:
            say(job.error.message)
    _require_success(jobs)


def _newest(client: Client) -> Job[Result]:
    """The newest job that waits or runs. Raises NotFound."""
    jobs = [job for state in ("queued", "running") for job in client.jobs(state=state, limit=1)]
    if not jobs:
        raise NotFound("no job waits or runs; see those that have ended with: adapterctl jobs list", param="job")
    job = max(jobs, key=lambda job: job.view.created_at)
    say(f"watching job {job.id}: {job.view.kind} of {job.view.subject}")
    return job


_ENDED = Listing(
    ListColumn("id"),
    ListColumn("state"),
    *(ListColumn(name, importance=0) for name in ("kind", "subject")),
    ListColumn("reason"),
    ListColumn("message", importance=0),
    key="id",
)


@click.command(name="wait")
@click.argument("job_ids", type=JOB, metavar="JOB…", nargs=-1, required=True)
@click.option("--timeout", help="How long to wait: seconds, or 90s, 10m, 2h; then exit 8, while the jobs keep running.")
@click.option("--any", "any_", is_flag=True, help="Stop when the first job ends, and exit with its outcome.")
@listed(_ENDED)
def jobs_wait(job_ids: tuple[str, ...], timeout: str | None, any_: bool, style: str) -> None:
    """Wait for jobs, and print how each ended.

    Exits with 0 if all succeeded, 6 if one failed or was cancelled, 8 if the time is up.

    \b
    Examples:
      adapterctl jobs wait 3f1c2a9b7d20 --timeout 2h
      adapterctl jobs wait 3f1c2a9b7d20 9a7e1b2c3d4f --any
    """
    timeout_s = None if timeout is None else parse_duration(timeout)
    ended = []
    with open_client() as client:
        jobs = [client.job(job_id) for job_id in dict.fromkeys(job_ids)]
        for job, event in follow(jobs, note=say, timeout_s=timeout_s, last=1):
            if event is None and job.view.state.is_final:
                ended.append(job)
                if style == "table" and is_piped():
                    _ENDED.print(style, [job.view], empty="", header=len(ended) == 1)
                elif style == "table":
                    click.echo(_end_of(job.view))
                if any_:
                    break
    fields = {"id", "kind", "state", "subject", "reason", "message", "result"}
    if style != "table":
        _ENDED.print(style, [job.view.model_dump(mode="json", include=fields) for job in ended], empty="")
    _require_success(ended)


def _end_of(view: JobView) -> str:
    why = "" if view.reason in (None, FailureReason.CANCELLED) else f" ({view.reason})"
    return f"{view.id}  {view.state.value}{why}"


def _require_success(jobs: Sequence[Job[Result]]) -> None:
    """Raise JobFailed if a job has ended without a result."""
    failed = [job for job in jobs if job.error is not None]
    if len(jobs) == 1 and jobs[0].error is not None:
        raise jobs[0].error
    if failed:
        ids = ", ".join(job.id for job in failed)
        raise JobFailed(
            f"{len(failed)} of {len(jobs)} jobs ended without a result ({ids}); see: adapterctl jobs show {failed[0].id}"
        )


_EVENTS = Listing(
    ListColumn("time", "at"),
    ListColumn("attempt", importance=5),
    ListColumn("kind", importance=6),
    ListColumn("message", lambda event: told(event), 8),
    key="kind",
)


@click.command(name="logs", short_help="Print what happened to a job.")
@click.argument("job_id", type=JOB, metavar="JOB")
@click.option("-f", "--follow", "following", is_flag=True, help="Keep printing until the job has ended.")
@format_option_of("table", "json", says="json: one object per line.")
@no_header_option
def jobs_logs(job_id: str, following: bool, style: str) -> None:
    """Print what happened to a job: the time here (in a pipe and in JSON UTC), the attempt, and the event.

    \b
    Examples:
      adapterctl jobs logs 3f1c2a9b7d20
      adapterctl jobs logs 3f1c2a9b7d20 -f --format json
    """
    with open_client() as client:
        job = client.job(job_id)
        followed = (event for _, event in follow([job], note=say) if event is not None)
        first = True
        for event in followed if following else job.events():
            if style == "json":
                click.echo(event.model_dump_json(exclude_none=True))
            elif is_piped():
                _EVENTS.print(style, [event], empty="", header=first)
            else:
                _print_event(event)
            first = False


def _print_event(event: Event) -> None:
    head = f"{event.at.astimezone():%Y-%m-%d %H:%M:%S %Z}  {event.attempt}  {event.kind:<8}"
    for line in told(event).splitlines() or [""]:
        click.echo(f"{head}  {plain(line)}".rstrip())
        head = " " * len(head)
