"""The way in: server processes whose connections have limits."""

from __future__ import annotations

import resource
import socket
from dataclasses import replace
from functools import partial

import click
import uvicorn

from registry.door.connections import Connections
from registry.door.limits import ServerLimits
from registry.door.protocol import BoundedHttp
from registry.errors import Unavailable

#: How many files a server process opens besides its connections: the database, the store, its own libraries.
_OTHER_FILES = 300


def serve_within(limits: ServerLimits, app: str, *, host: str, port: int, workers: int) -> None:
    """Serve what `app` makes (`MODULE:FUNCTION`) in so many processes, until they are told to stop. Raises Unavailable."""
    _require_free(host, port)
    limits = _within_files(limits)
    uvicorn.run(
        app,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=partial(BoundedHttp, others=Connections(limits)),  # type: ignore[arg-type]
        # Only the protocol that has limits.
        ws="none",
        # The connection says who is asking; a proxy only does if the settings name it.
        proxy_headers=bool(limits.trusted),
        forwarded_allow_ips=[str(network) for network in limits.trusted],
        # Request lines of blob routes contain signatures, which are credentials.
        access_log=False,
        log_level="info",
        timeout_graceful_shutdown=10,
    )


def _within_files(limits: ServerLimits) -> ServerLimits:
    """Let this process and its children open as many files as its connections need, or lower the number of connections
    to what is allowed.

    A server that runs out of files can neither accept a connection nor open its database.
    """
    beside = limits.reserve + _OTHER_FILES
    wanted = limits.connections + beside
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return limits
    possible = max(1, allowed - beside)
    click.echo(
        f"{possible} connections instead of {limits.connections}: the system allows only {hard} open files", err=True
    )
    return replace(limits, connections=possible)


def _require_free(host: str, port: int) -> None:
    """Raise Unavailable if the port is taken, before any process is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"port {port} on {host} can't be used ({error.strerror}); choose another with --port", param="port"
            ) from error
