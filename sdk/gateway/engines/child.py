"""A process that an engine runs in: started with its configuration, asked over a private socket, and ended with this process.

The configuration is one line of JSON on its standard input, which then stays open: its end is the end of this process, however that
comes. It prints one line of JSON when it is ready, or a sentence why it can't be: `{"ready": …}`, `{"refused": …}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from sdk.asking.programs import short_temporary
from sdk.gateway.engines.engine import EngineDied, EngineRefused
from sdk.gateway.engines.private_folder import PrivateFolder
from sdk.worker_program import start_program_beside

#: What an engine may say before it is ready, in bytes.
_MOST_LINE = 1024 * 1024
#: How long it may take to end by itself: no request is running then, and it has nothing to write.
_END_S = 1.0
#: How long it may take to say that it is there; and how often a connection is tried, with a pause, before it counts as gone: then it
#: is ended, with all requests that run in it.
_ANSWER_S = 10.0
_TRIES, _PAUSE_S = 5, 0.1
#: A connection of its own for each request: an engine may end one that was kept in the moment in which it is used again.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)


class _EngineClient(httpx.AsyncClient):
    """A client that says of an engine that was ended what it says of one that has died: it can't be reached."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        if self.is_closed:
            raise httpx.ConnectError("the engine has ended", request=request)
        return await super().send(request, **options)


class EngineProcess:
    """One process, and the client that reaches it."""

    def __init__(self, process: asyncio.subprocess.Process, folder: PrivateFolder, socket: Path) -> None:
        self._process, self._folder = process, folder
        self.client = _EngineClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket), limits=_LIMITS),
            base_url="http://engine",
            timeout=_TIMEOUT,
        )
        #: What it said when it was ready.
        self.ready: dict[str, Any] = {}

    @classmethod
    async def start(cls, module: str, configuration: Mapping[str, Any], *, ready_s: float, what: str) -> EngineProcess:
        """Start a module with the path of a socket in its configuration, and wait until it is ready.

        Raises EngineRefused with what it says, or if it ends or takes longer.
        """
        # In a folder that nobody else can enter. Paths of sockets may not be long.
        try:
            folder = await asyncio.to_thread(PrivateFolder, short_temporary())
        except OSError as error:
            raise EngineRefused(
                f"no folder can be made for the socket of {what} ({error.strerror}); make room for temporary files, or set TMPDIR"
            ) from error
        socket = folder.path / "engine.sock"
        try:
            process = await start_program_beside(module, line_bytes=_MOST_LINE)
        except BaseException:
            folder.close()
            raise
        child = cls(process, folder, socket)
        try:
            async with asyncio.timeout(ready_s):
                child.ready = await child._begin({**configuration, "socket": str(socket)}, what)
        except TimeoutError:
            await child.end()
            raise EngineRefused(
                f"{what} was not ready within {ready_s:.0f} s; try again on a machine that is less busy"
            ) from None
        except BaseException:
            await child.end()
            raise
        return child

    async def _begin(self, configuration: Mapping[str, Any], what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(json.dumps(configuration).encode() + b"\n")
            await self._process.stdin.drain()
        while line := await self._process.stdout.readline():
            # A library may print something of its own first.
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and "ready" in answer:
                    return answer
                if isinstance(answer, dict) and "refused" in answer:
                    raise EngineRefused(str(answer["refused"])[:1000])
        status = await self._process.wait()
        raise EngineDied(
            f"{what} ended ({_how(status)}) before it was ready; see that there is enough memory, then start it again"
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.returncode is None

    async def answers(self) -> bool:
        """Whether the process is there; one that is too busy to say so is."""
        for _try in range(_TRIES):
            if not self.is_alive:
                return False
            try:
                await self.client.get("/health", timeout=_ANSWER_S)
            except httpx.TimeoutException:
                return True
            except httpx.TransportError:
                # It has just ended, or is about to, or more connections came at once than its queue takes.
                await asyncio.sleep(_PAUSE_S)
            else:
                return True
        return False

    @property
    def pid(self) -> int:
        """Its number, for as long as it is alive."""
        return self._process.pid

    async def end(self) -> None:
        """End the process and everything in its session, and wait for that."""
        await self.client.aclose()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_END_S):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._folder.close()


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"status {status}"
