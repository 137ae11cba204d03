"""The helper of a folder: the same application over a Unix socket, for the commands of the user whose folder it is.

It is started by a command that is done, or that has a job begin (`sdk.home_helpers` has where and when), and ends after a minute without another
one, by SIGTERM, or when its folder is another one or gone. It has no more rights than a command has, and no port.

::

    python -P -m registry.app.home_helper HOME KEY DESCRIPTOR-OF-THE-LOCK
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from sdk.imports import begin_program, nothing_collected

with nothing_collected():
    import uvicorn
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from registry.app.embedded import DATABASE_FILE, open_embedded, revive_if_left
    from registry.app.services import Services
    from registry.errors import RegistryError
    from sdk.home_helpers import (
        BUILD_HEADER,
        GREETING,
        RUNNER_HEADER,
        HelperPlace,
        HomeHelper,
        build,
        peer_uid,
        place_of,
    )
    from sdk.process_starts import process_started_at
    from sdk.version import VERSION
    from sdk.whole_files import write_whole

IDLE_S = 60.0
#: A command that opens the folder itself does what is due once a day, and starts another helper.
LONGEST_S = 3600.0
_LOOK_EVERY_S = 1.0
_MOST_LOG_BYTES = 64 * 1024
_WAITING = 32


class AskedRunner:
    """A queue that remembers that somebody asked for a runner: the command starts it, with its own environment."""

    def __init__(self) -> None:
        self._asked = False

    def revive(self) -> None:
        """Remember it."""
        self._asked = True

    def announce(self, job_id: str, queue: str) -> None:
        """Remember it."""
        self._asked = True

    def remind(self, jobs: Any) -> int:
        """Remember it, if jobs wait."""
        self._asked = self._asked or bool(jobs)
        return 0

    def take(self) -> bool:
        """Say whether somebody asked since this was called last."""
        asked, self._asked = self._asked, False
        return asked


class Helper:
    """ASGI middleware: answers greetings, says after which requests a runner has to be started, and notes when it was used."""

    def __init__(self, app: ASGIApp, services: Services, place: HelperPlace, runner: AskedRunner) -> None:
        self._app, self._services, self._place, self._runner = app, services, place, runner
        self._database = (place.home / DATABASE_FILE).stat()
        self._answering, self._used_at = 0, time.monotonic()

    @property
    def idle_s(self) -> float:
        """For how long nobody has asked anything."""
        return 0.0 if self._answering else time.monotonic() - self._used_at

    def is_of_its_folder(self) -> bool:
        """Whether the folder, and its database, are still those that were opened, and this still the code that is installed."""
        try:
            return place_of(self._place.home) == self._place and os.path.samestat(
                self._database, (self._place.home / DATABASE_FILE).stat()
            )
        except OSError:
            return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        self._answering += 1
        try:
            if scope["path"] == GREETING:
                await self._greeted()(scope, receive, self._saying(send))
            else:
                # A shell that completes a word starts no runner, so the next command hears of it.
                starts_none = (RUNNER_HEADER.lower().encode(), b"0") in scope["headers"]
                await self._app(scope, receive, send if starts_none else self._saying(send))
        finally:
            self._answering -= 1
            self._used_at = time.monotonic()

    def _greeted(self) -> Response:
        # A moment's work, which needs no thread: its file is in memory.
        try:
            if self.is_of_its_folder() and self._services.db.is_current():
                revive_if_left(self._services)
                return Response(status_code=204, headers={BUILD_HEADER: build()})
        except RegistryError as error:
            logging.getLogger(__name__).warning("a command was sent away: %s", type(error).__name__)
        return Response(status_code=409)

    def _saying(self, send: Send) -> Send:
        async def say(message: Message) -> None:
            if message["type"] == "http.response.start" and self._runner.take():
                message["headers"] = [*message["headers"], (RUNNER_HEADER.lower().encode(), b"1")]
            await send(message)

        return say


class _Server(uvicorn.Server):
    """A server that ends by a signal, instead of raising it again before its files are removed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal end it once what was begun is answered."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self.handle_exit)
        yield


class _OwnersAlone(HttpToolsProtocol):
    """A connection of the owner of the folder; others are closed at once."""

    def connection_made(self, transport: Any) -> None:
        if peer_uid(transport.get_extra_info("socket")) != os.getuid():
            transport.abort()
            return
        super().connection_made(transport)


class _NoValues(logging.Formatter):
    """Where an error was raised, and of which class; not its message, which may have something of a request in it."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name in the library
        frames = "".join(f"  {frame.filename}:{frame.lineno} {frame.name}\n" for frame in traceback.extract_tb(ei[2]))
        return f"{frames}{ei[0].__name__}"


def main() -> None:
    """Serve until nobody asks any more."""
    # Not when it is imported: whoever imports it has garbage of their own.
    begin_program()
    home, key = Path(sys.argv[1]), sys.argv[2]
    os.set_inheritable(int(sys.argv[3]), False)
    place = place_of(home)
    # Another build is installed meanwhile, or the folder is gone.
    if place is None or place.key != key:
        return
    _log_to(place.log)
    runner = AskedRunner()
    with nothing_collected(ever=True):
        app = open_embedded(place.home, queue=runner)
    services: Services = app.state.services
    helper = Helper(app, services, place, runner)
    with closing(services.db), closing(_listening(place.socket)) as listener:
        record = HomeHelper(key, os.getpid(), process_started_at(os.getpid()) or "", str(home), VERSION, time.time())
        write_whole(place.record, json.dumps(asdict(record)) + "\n", durable=False, mode=0o600)
        try:
            asyncio.run(_serve(helper, listener))
        finally:
            for path in (place.socket, place.record):
                path.unlink(missing_ok=True)


async def _serve(helper: Helper, listener: socket.socket) -> None:
    server = _Server(
        uvicorn.Config(
            helper,
            http=_OwnersAlone,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    until = time.monotonic() + LONGEST_S
    while not serving.done():
        await asyncio.wait([serving], timeout=_LOOK_EVERY_S)
        is_old = time.monotonic() > until and helper.idle_s > 0
        if helper.idle_s > IDLE_S or is_old or not helper.is_of_its_folder():
            server.should_exit = True
    await serving


def _listening(path: Path) -> socket.socket:
    # Whoever holds the lock is the only one who may be behind it.
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_WAITING)
    return listener


def _log_to(path: Path) -> None:
    handler = RotatingFileHandler(path, maxBytes=_MOST_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(_NoValues("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # What went there until now was of the interpreter; the file has a limit for what is logged alone.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - it is a device
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


if __name__ == "__main__":
    main()
