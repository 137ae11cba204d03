"""The registry in this process, as a transport of httpx. Imported only if its extra is installed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import Any

import httpx

#: How long to wait for what is being answered when the registry is closed, in seconds.
_ENDING_S = 1.0


class EmbeddedTransport(httpx.BaseTransport):
    """Sends requests to an application of `registry.app.application` in this process; it runs in its own loop until
    this is closed.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._asgi = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="adapterctl-embedded", daemon=True)
        self._thread.start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; its body and the answer's are whole in memory."""
        request.read()
        answering = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
        try:
            return answering.result()
        except CancelledError:
            raise httpx.ReadError("the registry was closed meanwhile", request=request) from None
        finally:
            # Whoever presses Ctrl-C waits no longer, so nobody answers.
            answering.cancel()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._asgi.handle_async_request(request)
        body = b"".join([part async for part in answer.stream])  # type: ignore[union-attr]
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(body))

    def close(self) -> None:
        """End the loop and its thread, and close the connections of the application's database."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join()
        self._loop.close()
        self._app.state.services.db.close()

    async def _end(self) -> None:
        if unanswered := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in unanswered:
                task.cancel()
            # What is in a thread ends when it ends.
            await asyncio.wait(unanswered, timeout=_ENDING_S)
        self._loop.stop()
