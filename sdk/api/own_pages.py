"""The pages of a registry in a folder, served from this process. The registry is imported only if its extra is installed."""

from __future__ import annotations

import importlib
import secrets
import socket
from collections.abc import Callable
from contextlib import closing

from sdk.api.transport import opened_embedded
from sdk.config import Config
from sdk.errors import Unavailable
from sdk.imports import nothing_collected

_HOST = "127.0.0.1"
#: How many connections wait to be accepted.
_WAITING = 128


def serve_pages(config: Config, *, port: int, on_address: Callable[[str], None]) -> None:
    """Serve the pages of the registry in a folder on 127.0.0.1, until SIGINT or SIGTERM; 0 is any free port.

    `on_address` is called with each address that signs a browser in; with the first one at once, because the browser starts
    while the registry does, and waits for it. Raises Unavailable for a port that is taken, or a folder that can't be used.
    """
    with opened_embedded(config), closing(_listening(port)) as listener:
        code = secrets.token_urlsafe(24)
        on_address(f"http://{_HOST}:{listener.getsockname()[1]}/ui/code?code={code}")
        with nothing_collected():
            own_pages = importlib.import_module("registry.app.own_pages")
        own_pages.serve_own_pages(config.home, listener, first_code=code, on_address=on_address)


def _listening(port: int) -> socket.socket:
    # Only a socket that says that it is TCP sends each piece of an answer at once.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(_WAITING)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"port {port} on {_HOST} can't be used ({error.strerror}); choose another with --port", param="port"
        ) from error
    return listener
