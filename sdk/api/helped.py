"""Requests to the registry of a folder by its helper, as a transport of httpx; if that ends, by the registry in this process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import httpx

from sdk.errors import Unavailable
from sdk.home_helpers import RUNNER_HEADER, HelperPlace, await_helper, greet

_READS = ("GET", "HEAD")


class HelpedTransport(httpx.BaseTransport):
    """Sends requests to the helper of a folder, and from its end on to what `opened_here` returns."""

    def __init__(self, place: HelperPlace, opened_here: Callable[[], httpx.BaseTransport]) -> None:
        self._home = place.home
        # There is no TLS, and reading the certificates of all authorities takes a while.
        self._helper = httpx.HTTPTransport(uds=str(place.socket), verify=False)
        self._opened_here = opened_here
        self._here: httpx.BaseTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; its body and the answer's are whole in memory.

        Raises Unavailable if the helper ends before it answers, and nobody knows whether it has made the change.
        """
        request.read()
        if self._here is None:
            try:
                return self._asked(request)
            except httpx.TimeoutException:
                raise
            except httpx.TransportError as error:
                if not isinstance(error, httpx.ConnectError) and not _may_be_repeated(request):
                    raise Unavailable(
                        f"the helper of {self._home} ended before it answered; see whether the change was made, then try again"
                    ) from error
            self._here = self._opened_here()
        return self._here.handle_request(request)

    def _asked(self, request: httpx.Request) -> httpx.Response:
        answer = self._helper.handle_request(request)
        try:
            body = answer.read()
        finally:
            answer.close()
        if RUNNER_HEADER in answer.headers:
            _start_runner(self._home)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(body))

    def close(self) -> None:
        """Close the connections."""
        self._helper.close()
        if self._here is not None:
            self._here.close()


def helped(
    place: HelperPlace, opened_here: Callable[[], httpx.BaseTransport], *, awaited: bool = False
) -> HelpedTransport | None:
    """Return a transport by the helper that answers there; None if none does. With `awaited`, one may still be starting."""
    greeted = await_helper(place) if awaited else greet(place)
    if greeted is None:
        return None
    if RUNNER_HEADER.lower() in greeted:
        _start_runner(place.home)
    return HelpedTransport(place, opened_here)


def _may_be_repeated(request: httpx.Request) -> bool:
    """Whether nothing is done twice if this is sent again."""
    return request.method in _READS or "Idempotency-Key" in request.headers


def _start_runner(home: Path) -> None:
    """Start the runner of jobs, as a registry in this process would: with this command's environment."""
    importlib.import_module("registry.queue.local").LocalQueue(home).revive()
