"""`adapterctl workers` and `adapterctl capacity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sdk.cli.support.output import age_of, format_option, human_bytes, human_duration, print_rows, say
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.schemas.work import QueueCapacity, WorkerView


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
    columns = ["name", "state", "job", "device", "free", "of", "queues", "seen"]
    empty = "no worker is known; start one with: adapter-worker start"
    print_rows(style, workers, columns, key="name", empty=empty, cut="name", shown=_shown)


def _shown(worker: WorkerView) -> dict[str, str]:
    return {
        "free": human_bytes(worker.free_memory_bytes),
        "of": human_bytes(worker.memory_bytes),
        "queues": ",".join(worker.queues),
        "seen": age_of(worker.seen_at),
    }


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
    columns = ["queue", "queued", "oldest", "unfit", "running", "workers", "idle"]
    print_rows(style, queues, columns, key="queue", empty="", shown=_waiting)
    for one in queues if style == "table" else ():
        if one.queued and not one.workers:
            say(f"no worker listens to the queue {one.queue}; start one with: adapter-worker start --queue {one.queue}")


def _waiting(one: QueueCapacity) -> dict[str, str | None]:
    return {"oldest": None if one.oldest_s is None else human_duration(one.oldest_s)}
