"""The ports of 127.0.0.1: which are free, what a server answers on one, and whether a process is connected to one."""

from __future__ import annotations

import contextlib
import http.client
import random
import secrets
import socket
from collections.abc import Iterator

from sdk.stack.errors import ServerError

#: Ports are chosen below Linux's ephemeral range (32768 and up), so that no outgoing connection can use a kept one.
_LOWEST_PORT, _HIGHEST_PORT = 10_240, 32_767


def free_ports(count: int, *, twin_offset: int = 0) -> list[int]:
    """Return `count` different ports of 127.0.0.1 on which nothing listens, nor on their twins, `twin_offset` above."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for port in _candidates(_HIGHEST_PORT - twin_offset):
            with contextlib.ExitStack() as attempt:
                try:
                    for number in {port, port + twin_offset}:
                        listener = attempt.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                        listener.bind(("127.0.0.1", number))
                except OSError:
                    continue
                # Holding the sockets until all are found keeps one port from being the twin of another.
                held.push(attempt.pop_all())
            ports.append(port)
            if len(ports) == count:
                return ports
    raise ServerError(
        f"there are not {count} free ports on 127.0.0.1 below {_HIGHEST_PORT}; stop some of the programs that listen there"
    )


def is_taken(port: int) -> bool:
    """Say whether a program listens on a port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without this, connections that ended within the last minute would count as well.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def http_status(port: int, path: str, *, token: str | None = None) -> int:
    """Return the status of a GET, without any proxy that the environment names. Raises OSError if nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(f"port {port} of 127.0.0.1 does not speak HTTP") from error
    finally:
        connection.close()


def is_connected(pid: int, port: int) -> bool:
    """Say whether a process is connected to a port of 127.0.0.1; True if the system doesn't tell."""
    import psutil

    try:
        connections = psutil.Process(pid).net_connections("tcp4")
    except psutil.AccessDenied:
        # A worker shows what it has open only to root.
        return True
    except psutil.NoSuchProcess:
        return False
    wanted = ("127.0.0.1", port)
    return any(each.raddr == wanted and each.status == psutil.CONN_ESTABLISHED for each in connections)


def _candidates(highest: int) -> Iterator[int]:
    ports = range(_LOWEST_PORT, highest + 1)
    # Ports are not secrets: any choice will do with which two runs on one machine are unlikely to pick the same.
    yield from random.Random(secrets.randbits(64)).sample(ports, k=min(len(ports), 2_000))  # noqa: S311
