"""The pages of a registry in somebody's own folder: on loopback, for whoever has the code that its owner is shown.

Other users of the machine can reach the port too. So nothing but these pages is served there, and nothing of them without a
session.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.app.embedded import open_embedded
from registry.door.connections import Connections
from registry.door.limits import ServerLimits
from registry.door.protocol import BoundedHttp
from registry.errors import Unavailable
from registry.http.paths import CODE, PAGES, SIGN_IN
from registry.principal import LOCAL
from registry.web.sessions.service import CODE as CODE_LASTS
from registry.web.sessions.service import Sessions

if TYPE_CHECKING:
    from registry.app.services import Services

_HOST = "127.0.0.1"
#: What there is beside pages: ways to them, and their icon.
_BESIDE = ("/", PAGES.rstrip("/"), "/favicon.ico")
#: More than the browsers of one person open.
_CONNECTIONS = 200


def serve_own_pages(home: Path, *, port: int, on_address: Callable[[str], None]) -> None:
    """Serve the pages of the registry in the folder `home`, until SIGINT or SIGTERM; 0 is any free port.

    `on_address` is called with the address that signs a browser in, once the pages are there, and with another one if
    somebody comes to sign in after it has expired. Raises Unavailable for a port that is taken, or a folder that can't be
    used.
    """
    with closing(_listening(port)) as listener:
        app = open_embedded(home, shows_pages=True)
        services: Services = app.state.services
        url = f"http://{_HOST}:{listener.getsockname()[1]}"
        door = Addresses(services.sessions, url, on_address)
        app.add_middleware(OnlyPages, addresses=door)
        limits = ServerLimits(connections=_CONNECTIONS, connections_per_address=_CONNECTIONS)
        config = uvicorn.Config(
            app,
            http=partial(BoundedHttp, others=Connections(limits)),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="critical",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        with closing(services.db):
            _Server(config, door.show).run(sockets=[listener])


class Addresses:
    """The addresses that its owner is shown, each with a code."""

    def __init__(
        self,
        sessions: Sessions,
        url: str,
        on_address: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions, self._url, self._on_address, self._clock = sessions, url, on_address, clock
        self._shown_at = float("-inf")

    async def show(self) -> None:
        """Show an address, unless the last one still counts."""
        now = self._clock()
        if now - self._shown_at < CODE_LASTS.total_seconds():
            return
        self._shown_at = now
        made = await run_in_threadpool(self._sessions.code, who=LOCAL)
        self._on_address(f"{self._url}{CODE}?code={made.code}")


class OnlyPages:
    """ASGI middleware: there is nothing but pages, and who comes to sign in finds an address that counts."""

    def __init__(self, app: ASGIApp, *, addresses: Addresses) -> None:
        self._app, self._addresses = app, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"]
        if path not in _BESIDE and not path.startswith(PAGES):
            await PlainTextResponse(f"there are only pages here; open {PAGES}", 404)(scope, receive, send)
            return
        if scope["method"] == "GET" and path in (SIGN_IN, CODE):
            await self._addresses.show()
        await self._app(scope, receive, send)


class _Server(uvicorn.Server):
    """A server that ends by a signal, instead of raising it again, and tells when it answers."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], Any]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        await self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let the first signal end it once what was begun is answered, and the second one at once."""
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _listening(port: int) -> socket.socket:
    """Return a socket that listens on loopback: a browser that comes early waits. Raises Unavailable."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"port {port} on {_HOST} can't be used ({error.strerror}); choose another with --port", param="port"
        ) from error
    return listener
