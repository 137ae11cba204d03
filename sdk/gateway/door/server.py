"""A gateway as a server: it listens, answers, and ends by a signal when the answers that have begun are given."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from sdk.errors import Unavailable
from sdk.gateway.door.protocol import GatewayHttp, OpenConnections


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises Unavailable for a port that is in use, or an address that isn't this machine's."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Only a socket that says that it is TCP sends each piece of an answer at once.
        listening = socket.socket(found[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise Unavailable(
            f"{host!a} is not an address of this machine ({error.strerror}); choose another with --host"
        ) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise Unavailable(
            f"port {port} on {host} can't be used ({error.strerror}); choose another with --port", param="port"
        ) from error
    return listening


def server_of(app: ASGIApp, *, drain_s: float, connections: OpenConnections | None = None) -> uvicorn.Server:
    """Return a server of an application, for `serve(sockets=[…])` in an event loop with handlers for SIGTERM and SIGINT of its own.

    With a signal, or `should_exit`, it takes no more requests, and `serve` returns when those that run have ended, or after
    `drain_s`; then the signal is raised again.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=GatewayHttp.of(connections or OpenConnections()),
            ws="none",
            lifespan="off",
            # The connection says who is asking.
            proxy_headers=False,
            server_header=False,
            # Nothing that a caller sends is written anywhere.
            access_log=False,
            log_level="critical",
            log_config=None,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
    )
