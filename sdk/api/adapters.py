"""Adapters: names that have versions."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.pages import pages
from sdk.api.transport import Transport
from sdk.schemas.catalog import AdapterView


def iterate(transport: Transport, *, namespace: str | None = None, prefix: str = "") -> Iterator[AdapterView]:
    """Yield adapters by name: all that this client may see, or those of a namespace ("-": names without one)."""
    return pages(transport, "/adapters", AdapterView, params={"namespace": namespace, "prefix": prefix})
