"""Clients of the worker's registry: separate ones for threads that must not wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdk.client import Client
from sdk.pulling.filling import OnTransfer


@contextmanager
def apart(client: Client, on_transfer: OnTransfer | None = None) -> Iterator[Client]:
    """A client of the same registry with its own connections. With an in-process registry there are no connections to share."""
    if client.config.home is not None:
        yield client
        return
    config = client.config
    own = Client(config.url, config.token, cache=client.cache.root, on_transfer=on_transfer, insecure=config.insecure)
    try:
        yield own
    finally:
        own.close()
