"""`adapter-worker`: runs a worker on a node."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from sdk.api.transport import VERSION
from sdk.config import load
from sdk.errors import AdapterctlError, InvalidInput
from workers.child.privacy import keep_to_itself
from workers.node import logs
from workers.settings import LogLevel, WorkerSettings, parse_queues


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="adapter-worker")
def cli() -> None:
    """Run the jobs of a registry on this machine.

    \b
    The registry is named by ADAPTERCTL_URL and ADAPTERCTL_TOKEN (a token with the role 'worker'),
    the broker by REGISTRY_BROKER_URL. Without a broker the worker asks the registry every 2 s.
    """


@cli.command()
@click.option(
    "--queue", "queues", default="gpu,cpu", show_default=True, help="Queues to listen to, separated by commas."
)
@click.option("--name", default=None, help="This worker's name in job lists. [default: host and process id]")
@click.option("--log-level", default="INFO", show_default=True, type=click.Choice(["DEBUG", "INFO", "WARNING"]))
def start(queues: str, name: str | None, log_level: LogLevel) -> None:
    """Start a worker; one job at a time, each in a child process.

    \b
    SIGTERM stops it in order: its job writes a checkpoint and is given back within
    ADAPTER_WORKER_GRACE_S (30) seconds. A second one stops it at once. With ADAPTER_WORKER_WARM=0
    no warm child waits for the next job, and ADAPTER_WORKER_LOG_FORMAT=json gives JSON lines.

    \b
    Example:
      ADAPTERCTL_URL=https://registry.example ADAPTERCTL_TOKEN=… \\
      REGISTRY_BROKER_URL=redis://broker:6379/0 adapter-worker start --name gpu-1
    """
    keep_to_itself()
    chosen = WorkerSettings.from_env()
    settings = replace(chosen, name=name or chosen.name, queues=parse_queues(queues), log_level=log_level)
    logs.configure(settings)
    if load().home is not None:
        raise InvalidInput(
            "a worker needs a server; set ADAPTERCTL_URL to its URL. A local: registry starts its own runner",
            param="url",
        )
    if settings.broker_url is None:
        from workers.entry.service import ask_forever

        ask_forever(settings)
        return
    from workers.entry.celery_worker import work_on_hints

    work_on_hints(settings)


def main() -> None:
    """The entry point: errors become one line and an exit code."""
    try:
        cli(standalone_mode=False)
    except AdapterctlError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        click.echo(
            f"error: {error.name} is not installed; install a worker with: pip install 'adapterctl[worker]'", err=True
        )
        sys.exit(9)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
