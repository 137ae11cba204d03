"""`adapterctl jobs`."""

from __future__ import annotations

import click

from sdk.cli.commands.jobs.act import jobs_cancel, jobs_publish, jobs_result, jobs_retry
from sdk.cli.commands.jobs.job_output import jobs_logs, jobs_wait, jobs_watch
from sdk.cli.commands.jobs.show import jobs_checkpoints, jobs_list, jobs_series, jobs_show
from sdk.cli.support.listing_group import CommandGroup


@click.group(name="jobs", cls=CommandGroup)
def jobs_command() -> None:
    """List, watch, cancel and retry jobs."""


for _command in (
    jobs_list,
    jobs_show,
    jobs_watch,
    jobs_wait,
    jobs_logs,
    jobs_result,
    jobs_cancel,
    jobs_retry,
    jobs_checkpoints,
    jobs_series,
    jobs_publish,
):
    jobs_command.add_command(_command)
