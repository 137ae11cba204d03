"""`adapter-registry`: the server, its schema, its tokens."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from registry.door.allowed_hosts import hosts_of
from registry.errors import Invalid, RegistryError, Unavailable
from registry.ops.database import current_database, database_of, settings_at_home
from registry.ops.tokens import token
from registry.principal import SYSTEM
from registry.settings import Settings

#: How many characters a reason to be read-only may have.
_MAX_REASON = 1000
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: What a server is bound to that listens at all of its machine's addresses.
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="adapterctl", prog_name="adapter-registry")
def cli() -> None:
    """Run an adapter registry.

    \b
    Settings come from the environment:
      REGISTRY_DATABASE_URL            postgresql://user@host/name, or sqlite:////path
      REGISTRY_STORAGE_URL             s3://bucket/prefix, or file:///folder
      REGISTRY_S3_ENDPOINT_URL         where the store is, unless it is AWS
      REGISTRY_S3_PUBLIC_ENDPOINT_URL  how clients reach it, if that differs
      REGISTRY_BROKER_URL              redis://:password@host:6379/0
      REGISTRY_AUTH                    token (default), or none on loopback only
      REGISTRY_PUBLIC_URL              how clients reach the server, which answers for this host
      REGISTRY_ALLOWED_HOSTS           further hosts for which it answers
      REGISTRY_TRUSTED_PROXIES         proxies whose X-Forwarded-For says who is asking
      REGISTRY_BEHIND_PROXY            1: a proxy in front holds off slow and numerous clients
    """


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Server processes.")
def serve(host: str, port: int, workers: int) -> None:
    """Serve the API. The schema must be current: adapter-registry db upgrade.

    \b
    Example:
      adapter-registry db upgrade && adapter-registry serve --port 8080 --workers 2
    """
    from registry.door.limits import ServerLimits
    from registry.door.serving import serve_within

    named = bool(os.environ.get("REGISTRY_PUBLIC_URL"))
    if not named:
        own = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
        os.environ["REGISTRY_PUBLIC_URL"] = f"http://{own}:{port}"
    settings = Settings.from_env()
    if settings.auth == "none" and host not in _LOOPBACK:
        raise Invalid(
            "REGISTRY_AUTH=none is for loopback only; bind to 127.0.0.1 or set REGISTRY_AUTH=token",
            param="REGISTRY_AUTH",
        )
    _explain_hosts(settings, named=named or host not in _EVERYWHERE)
    limits = ServerLimits.of(settings)
    database_of(settings).require_current()
    serve_within(limits, "registry.ops.server_process:app_from_env", host=host, port=port, workers=workers)


def _explain_hosts(settings: Settings, *, named: bool) -> None:
    """Say which hosts a server won't answer for, if that may be a surprise. Raises Invalid for a setting that is not a
    list of hosts.
    """
    hosts_of(auth=settings.auth, public_url=settings.public_url, allowed=settings.allowed_hosts)
    if settings.auth == "none" and settings.allowed_hosts is not None:
        click.echo(
            "REGISTRY_ALLOWED_HOSTS has no effect with REGISTRY_AUTH=none: only loopback names are answered", err=True
        )
    elif not named and settings.allowed_hosts is None:
        click.echo(
            "this server only answers requests for 127.0.0.1, localhost and other names of loopback: set REGISTRY_PUBLIC_URL to "
            "the URL by which clients reach it, or REGISTRY_ALLOWED_HOSTS to its names and addresses",
            err=True,
        )


@cli.group()
def db() -> None:
    """The database's schema."""


@db.command()
def upgrade() -> None:
    """Upgrade the schema to this program's revision."""
    database = database_of(Settings.from_env())
    database.upgrade()
    click.echo(database.revision())


@db.command()
def check() -> None:
    """Fail unless the schema is the one that this program needs."""
    database = database_of(Settings.from_env())
    database.require_current()
    from registry.ops.schema import drift

    found = drift(database)
    if found:
        raise Invalid(
            f"the schema differs from the models in {len(found)} places, first: {found[0]}; a migration is missing"
        )
    click.echo(database.revision())


@db.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--timeout-s",
    default=3600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Give up after this many seconds, leaving no file.",
)
def backup(file: Path, timeout_s: float) -> None:
    """Copy an SQLite database into a new FILE while it is in use. For PostgreSQL there is pg_dump.

    \b
    Example:
      adapter-registry db backup /srv/backup/registry.sqlite3
    """
    from registry.ops.backup import back_up

    back_up(database_of(Settings.from_env()), file, within_s=timeout_s)
    click.echo(file)


cli.add_command(token)


@cli.command(name="read-only")
@click.argument("to", type=click.Choice(["on", "off", "show"]))
@click.option(
    "--reason", default="an emergency", show_default=True, help="The reason given to callers that are refused."
)
def read_only(to: str, reason: str) -> None:
    """Refuse all changes for now, on every server within a second; reading still works.

    Changes are answered with 503 and the code read_only. Workers keep the jobs that they hold, by heartbeats, and get
    no new ones; nothing is queued again. A worker retries handing in a result for some minutes; after that, its job
    resumes from its last checkpoint once changes are allowed again. REGISTRY_READ_ONLY=1 does the same for one process.

    \b
    Example:
      adapter-registry read-only on --reason "moving the database"
    """
    from registry.access.read_only.service import ReadOnlySwitch

    if len(reason) > _MAX_REASON:
        raise Invalid(f"the reason is longer than {_MAX_REASON} characters; shorten it", param="reason")
    switch = ReadOnlySwitch(current_database())
    if to == "on":
        switch.turn_on(reason=reason, who=SYSTEM)
    elif to == "off":
        switch.turn_off(who=SYSTEM)
    found = switch.reason()
    click.echo("off" if found is None else f"on: {found}")


@cli.command()
@click.option("--once", is_flag=True, help="Run once, print what was done as JSON, and exit.")
def reconcile(once: bool) -> None:
    """Requeue jobs whose workers fell silent, and announce waiting jobs, for as long as this process runs.

    Each process of `adapter-registry serve` can do so too, unless REGISTRY_RECONCILE_S is 0; only the leader does.

    \b
    Example:
      adapter-registry reconcile --once
    """
    import signal
    import threading

    from registry.app.services import Services

    services = Services(settings_at_home())
    services.db.require_current()
    if once:
        click.echo(json.dumps(services.reconciler.sweep()))
        services.contamination.wait()
        services.automatic.wait()
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    services.reconciler.run(every_s=services.settings.reconcile_s or Settings.reconcile_s, stop=stop)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option(
    "--grace-hours",
    default=24,
    show_default=True,
    type=click.IntRange(0, 8760),
    help="Keep files given up less than this many hours ago.",
)
@click.option(
    "--keep-merged-days",
    type=click.IntRange(1, 36500),
    help="Remove merged models that are not versions and whose job ended more than this many days ago. [default: never]",
)
def gc(dry_run: bool, grace_hours: int, keep_merged_days: int | None) -> None:
    """Apply the retention rules, and remove files that nothing refers to any more; print a report as JSON.

    \b
    Example:
      adapter-registry gc --dry-run
    """
    from registry.app.services import Services
    from sdk.schemas.removal import GcRequest

    services = Services(settings_at_home())
    services.db.require_current()
    if not dry_run:
        services.read_only.require_off()
    request = GcRequest(dry_run=dry_run, grace_hours=grace_hours, keep_merged_days=keep_merged_days)
    report = services.removal.collect(request=request, who=SYSTEM)
    click.echo(json.dumps(report.model_dump(mode="json"), indent=2))


@cli.command()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(style: str) -> None:
    """Try database, storage and broker with real operations, and say what fails and what to do.

    What it writes to the storage is removed again. Exits with 9 if something fails. A folder is tried over HTTP only
    if REGISTRY_PUBLIC_URL says how clients reach its server.

    \b
    Example:
      adapter-registry doctor
    """
    from dataclasses import asdict

    from registry.app.stores import storage_of
    from registry.ops.doctor import examine

    settings = Settings.from_env()
    findings = []
    for finding in examine(settings, lambda expires_in_s: storage_of(settings, expires_in_s=expires_in_s)):
        findings.append(finding)
        if style == "table":
            click.echo(f"{finding.outcome:<8} {finding.what + ':':<34} {finding.message}")
    if style == "json":
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    failed = sum(finding.outcome == "failed" for finding in findings)
    if failed:
        raise Unavailable(
            f"{failed} of {len(findings)} checks failed; fix what they name, then run: adapter-registry doctor"
        )


def main() -> None:
    """The entry point: an error becomes one line and an exit code."""
    try:
        cli(standalone_mode=False)
    except RegistryError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit({"unavailable": 9, "read_only": 9, "not_found": 3}.get(error.code.value, 2))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
