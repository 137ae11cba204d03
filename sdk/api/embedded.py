"""The registry in this process, as a transport of httpx. Imported only if its extra is installed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
from a2wsgi import ASGIMiddleware


class EmbeddedTransport(httpx.BaseTransport):
    """Sends requests to an application of `registry.app.application` in this process; it runs in its own loop until
    this is closed.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="adapterctl-embedded", daemon=True)
        self._thread.start()
        inner: Any = ASGIMiddleware(app, loop=self._loop)

        def answered(environ: dict[str, Any], start_response: Any) -> Any:
            # In WSGI a path is bytes of UTF-8, each as one character (PEP 3333); httpx gives the text itself.
            environ["PATH_INFO"] = environ["PATH_INFO"].encode().decode("latin-1")
            return inner(environ, start_response)

        self._wsgi = httpx.WSGITransport(app=answered)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        return self._wsgi.handle_request(request)

    def close(self) -> None:
        """End the loop and its thread, and close the connections of the application's database."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._app.state.services.db.close()
