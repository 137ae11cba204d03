"""`adapterctl workers` and `adapterctl capacity`."""

from __future__ import annotations

import click

from sdk.cli.support.output import age_of, format_option, human_bytes, human_duration, print_rows, render, say
from sdk.cli.support.session import open_client


@click.group(name="workers")
def workers_command() -> None:
    """List the workers that the registry has heard from."""


@workers_command.command(name="list")
@format_option
def workers_list(style: str) -> None:
    """List the workers of the last week: what each has, and what it is doing.

    busy: holds a job; idle: takes the next job it can run; draining: takes no more and shuts down; silent: not heard from
    for a while.

    \b
    Example:
      adapterctl workers list
    """
    with open_client() as client:
        workers = client.workers()
    if style == "table" and workers:
        headers = ["name", "state", "job", "device", "free", "of", "queues", "seen"]
        rows = [
            [
                worker.name,
                worker.state,
                worker.job,
                worker.device,
                human_bytes(worker.free_memory_bytes),
                human_bytes(worker.memory_bytes),
                ",".join(worker.queues),
                age_of(worker.seen_at),
            ]
            for worker in workers
        ]
        click.echo(render(headers, rows, cut=0))
        return
    shown = [worker.model_dump(mode="json") for worker in workers]
    print_rows(style, shown, [], key="name", empty="no worker is known; start one with: adapter-worker start")


@click.command(name="capacity")
@format_option
def capacity_command(style: str) -> None:
    """Show for each queue which jobs wait and run, and which workers could take them.

    OLDEST is the age of the job that has waited longest; UNFIT counts jobs that no available worker can run, because of
    queue, device or memory: `adapterctl jobs list --state queued` says why.

    \b
    Example:
      adapterctl capacity
    """
    with open_client() as client:
        queues = client.workers.capacity()
    if style == "table":
        headers = ["queue", "queued", "oldest", "unfit", "running", "workers", "idle"]
        rows = [
            [
                one.queue,
                one.queued,
                None if one.oldest_s is None else human_duration(one.oldest_s),
                one.unfit,
                one.running,
                one.workers,
                one.idle,
            ]
            for one in queues
        ]
        click.echo(render(headers, rows))
        for one in queues:
            if one.queued and not one.workers:
                say(
                    f"no worker listens to the queue {one.queue}; start one with: adapter-worker start --queue {one.queue}"
                )
        return
    print_rows(style, [one.model_dump(mode="json") for one in queues], [], key="queue", empty="")
