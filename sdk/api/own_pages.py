"""The pages of a registry in a folder, served from this process. The registry is imported only if its extra is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from sdk.api.transport import opened_embedded
from sdk.config import Config


def serve_pages(config: Config, *, port: int, on_address: Callable[[str], None]) -> None:
    """Serve the pages of the registry in a folder on 127.0.0.1, until SIGINT or SIGTERM; 0 is any free port.

    `on_address` is called with each address that signs a browser in. Raises Unavailable.
    """
    with opened_embedded(config):
        own_pages = importlib.import_module("registry.app.own_pages")
        own_pages.serve_own_pages(config.home, port=port, on_address=on_address)
