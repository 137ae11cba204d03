"""`adapterctl workers` and `adapterctl capacity`."""

from __future__ import annotations

import click

from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import say
from sdk.cli.support.session import open_client


@click.group(name="workers", cls=CommandGroup)
def workers_command() -> None:
    """List the workers that the registry has heard from."""


_WORKERS = Listing(
    ListColumn("name"),
    ListColumn("state", importance=8),
    ListColumn("job", importance=7),
    ListColumn("device", importance=6),
    ListColumn("free", "free_memory_bytes", 4),
    ListColumn("memory", "memory_bytes", 5),
    ListColumn("queues", importance=2),
    ListColumn("heard from", "seen_at", 3),
    ListColumn("version", importance=0),
    key="name",
)
_QUEUES = Listing(
    ListColumn("queue"),
    ListColumn("queued", importance=8),
    ListColumn("running", importance=7),
    ListColumn("oldest", "oldest_s", 3),
    ListColumn("unfit", importance=4),
    ListColumn("workers", importance=6),
    ListColumn("idle", importance=5),
    key="queue",
)


@workers_command.command(name="list")
@listed(_WORKERS)
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
    _WORKERS.print(style, workers, empty="no worker is known; start one with: adapter-worker start")


@click.command(name="capacity")
@listed(_QUEUES)
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
    _QUEUES.print(style, queues, empty="there is no queue")
    for one in queues if style == "table" else ():
        if one.queued and not one.workers:
            say(f"no worker listens to the queue {one.queue}; start one with: adapter-worker start --queue {one.queue}")
