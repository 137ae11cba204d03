"""The pages of a registry in somebody's own folder: on loopback, for whoever has the code that its owner is shown.

Other users of the machine can reach the port too. So nothing but these pages is served there, and nothing of them without a
session.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.app.embedded import do_what_is_left, open_embedded
from registry.door.connections import Connections
from registry.door.limits import ServerLimits
from registry.door.protocol import BoundedHttp
from registry.http.paths import CODE, PAGES, SIGN_IN
from registry.principal import LOCAL
from registry.web.sessions.service import CODE as CODE_LASTS
from registry.web.sessions.service import Sessions
from sdk.imports import nothing_collected

if TYPE_CHECKING:
    from registry.app.services import Services

HOST = "127.0.0.1"
#: What there is beside pages: ways to them, and their icon.
_BESIDE = ("/", PAGES.rstrip("/"), "/favicon.ico")
#: More than the browsers of one person open.
_CONNECTIONS = 200
#: How long a browser that was opened with it takes for the first page.
_FIRST_PAGE_S = 1.5

_log = logging.getLogger(__name__)


def serve_own_pages(home: Path, listener: socket.socket, *, first_code: str, on_address: Callable[[str], None]) -> None:
    """Serve the pages of the registry in the folder `home` where somebody listens, until SIGINT or SIGTERM.

    `first_code` signs a browser in. `on_address` is called with another address that does if somebody comes to sign in after
    it has expired. Raises Unavailable for a folder that can't be used.
    """
    with nothing_collected():
        # What may be left to do imports rooms that the first page doesn't need.
        app = open_embedded(home, shows_pages=True, revives=False)
    services: Services = app.state.services
    addresses = Addresses(services.sessions, f"http://{HOST}:{listener.getsockname()[1]}", on_address)
    addresses.make(first_code)
    app.add_middleware(OnlyPages, addresses=addresses)
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
        _Server(config, services).run(sockets=[listener])


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
        self._made_at = float("-inf")

    def make(self, code: str | None = None) -> str:
        """Let a code count, by default a new one; return the address with it."""
        self._made_at = self._clock()
        made = self._sessions.code(who=LOCAL, code=code)
        return f"{self._url}{CODE}?code={made.code}"

    async def show(self) -> None:
        """Show another address, unless the last one still counts."""
        if self._clock() - self._made_at >= CODE_LASTS.total_seconds():
            # Whoever comes while it is made needn't make one more.
            self._made_at = self._clock()
            self._on_address(await run_in_threadpool(self.make))


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
    """A server that ends by a signal, instead of raising it again, and does what is left to do once it answers."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    async def main_loop(self) -> None:
        """Answer until it is to end."""
        left = asyncio.create_task(self._do_what_is_left())
        await super().main_loop()
        left.cancel()

    async def _do_what_is_left(self) -> None:
        await asyncio.sleep(_FIRST_PAGE_S)
        try:
            await run_in_threadpool(do_what_is_left, self._services)
        except Exception:  # noqa: BLE001 - the next command tries again, and pages are shown whatever it is
            _log.exception("what was left to do in this folder could not be done")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let the first signal end it once what was begun is answered, and the second one at once."""
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
