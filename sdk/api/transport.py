"""How requests reach the registry's API: over HTTP, or in process. Both are one httpx client over the same routes.

Lists are returned page by page.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from adapterctl_entry.hidden_packages import hidden_package
from sdk.api.answers import VERSION as VERSION
from sdk.api.answers import VERSION_HEADER as VERSION_HEADER
from sdk.api.answers import check_version, raise_error, require_json
from sdk.config import Config, wants_helper
from sdk.errors import Incompatible, InvalidInput, Unavailable, raise_for
from sdk.imports import nothing_collected
from sdk.schemas.wire import Page, Wire, read_json
from sdk.version import API

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from sdk.home_helpers import HelperPlace


T = TypeVar("T")


def keyed(key: str | None) -> dict[str, str]:
    """Return the header of an idempotency key; one of our own makes it harmless that something in between repeats a POST."""
    return {"Idempotency-Key": key or secrets.token_hex(16)}


class Transport:
    """Requests to one registry, from any thread. Safe to use after a fork: each process makes its own connections."""

    def __init__(self, config: Config, *, is_command: bool = False) -> None:
        """With `is_command`, the registry of a folder may be asked by its helper, if nothing else was said."""
        self.config = config
        #: Called with the path below `/api/v1` and the body of each answer that could be read.
        self.on_answer: Callable[[str, bytes], None] | None = None
        self._is_command = is_command
        #: Whether a helper that is asked at all, and that is being started, is waited for.
        self.awaits_helper = False
        #: Where a helper of the folder would be, which was opened in this process because there is none.
        self.unhelped: HelperPlace | None = None
        #: By the id of the process that created it.
        self._http: dict[int, httpx.Client] = {}

    def call(
        self,
        method: str,
        path: str,
        reply: type[T],
        *,
        params: Mapping[str, Any] | None = None,
        body: Wire | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> T:
        """Send a request to `/api/v1` + `path` and parse the answer as `reply`.

        Fields and members of a newer server that this client does not know are ignored. Raises the error that the
        registry's code represents, Unavailable if nothing answers, Incompatible if versions are far apart.
        """
        raw = self._send(method, path, params=params, body=body, headers=headers, timeout_s=timeout_s)
        try:
            answer = read_json(reply, raw or b"null", open_ended=True)
        except ValidationError as error:
            raise Incompatible(
                f"the registry at {self.config.url} answers in a way that version {VERSION} can't understand; upgrade both"
            ) from error
        if self.on_answer is not None:
            self.on_answer(path, raw)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None,
        body: Wire | None,
        headers: Mapping[str, str] | None,
        timeout_s: float,
    ) -> bytes:
        import httpx

        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            response = self._client().request(
                method,
                API + path,
                params={key: value for key, value in (params or {}).items() if value is not None},
                content=None if body is None else body.model_dump_json().encode(),
                headers=sent,
                timeout=timeout_s,
            )
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"the registry at {self.config.url} does not answer; check that it runs, then try again"
            ) from error
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the registry at {self.config.url} can't be reached ({type(error).__name__}); "
                "check ADAPTERCTL_URL and that the server runs"
            ) from error
        check_version(response.headers.get(VERSION_HEADER), self.config.url)
        if response.status_code == HTTPStatus.NOT_MODIFIED:
            # It still has the ETag that the caller knows.
            return b""
        if not response.is_success:
            raise_error(response.status_code, response.content, self.config.url)
        require_json(response.content, response.headers.get("content-type"), self.config.url)
        return response.content

    def open(self) -> None:
        """Open a registry in a folder now, which takes a second, and not with the first request."""
        self._client()

    def _client(self) -> httpx.Client:
        mine = os.getpid()
        found = self._http.get(mine)
        if found is None:
            made = self._open()
            found = self._http.setdefault(mine, made)
            if found is not made:
                # Another thread was faster.
                made.close()
        return found

    def _open(self) -> httpx.Client:
        import httpx

        config = self.config
        headers = {VERSION_HEADER: VERSION, "User-Agent": f"adapterctl/{VERSION}"}
        if config.home is not None:
            return httpx.Client(
                transport=self._of_folder(config, config.home), base_url="http://embedded", headers=headers
            )
        config.reach.require(config.url)
        if config.token:
            headers["Authorization"] = f"Bearer {config.token}"
        # Connections are retried; requests are not, since only the caller knows whether that is safe. No redirect is
        # followed: it would send the token to any address that the answer names.
        return httpx.Client(
            base_url=config.url, headers=headers, transport=_retrying(config.url), follow_redirects=False
        )

    def _of_folder(self, config: Config, home: Path) -> httpx.BaseTransport:
        """Ask the helper of a folder if it has one and that is wanted, or else open it in this process."""
        if not wants_helper(by_default=self._is_command):
            return _embedded(config)
        from sdk.home_helpers import is_started_here, place_of

        place = place_of(home)
        awaited = place is not None and (self.awaits_helper or is_started_here(place))
        if place is not None and (awaited or place.socket.exists()):
            from sdk.api.helped import helped

            if (found := helped(place, lambda: _embedded(config), awaited=awaited)) is not None:
                return found
        made = _embedded(config)
        # A new folder may only have one now.
        self.unhelped = place or place_of(home)
        return made

    def close(self) -> None:
        """Close the connections of this process."""
        mine = self._http.pop(os.getpid(), None)
        if mine is not None:
            mine.close()


class Routes:
    """The routes of one subject, over a transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport


def _retrying(url: str) -> httpx.BaseTransport | None:
    import httpx

    # Our own transport would ignore the proxy settings of the environment.
    proxied = any(
        os.environ.get(name)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    )
    return (
        None
        if proxied
        else httpx.HTTPTransport(
            retries=2,
            # Reading the certificates of all authorities takes a while, and without TLS no server presents a
            # certificate.
            verify=url.startswith("https:"),
        )
    )


def _embedded(config: Config) -> httpx.BaseTransport:
    """Open the registry of a folder in this process. Raises Unavailable without the extra, or if another package
    hides ours.
    """
    with opened_embedded(config), nothing_collected():
        app = importlib.import_module("registry.app.embedded").open_embedded(config.home)
    transport: httpx.BaseTransport = importlib.import_module("sdk.api.embedded").EmbeddedTransport(app)
    return transport


@contextmanager
def opened_embedded(config: Config) -> Iterator[None]:
    """Within the block, what the registry of a folder refuses is raised as this package's error.

    Raises Unavailable without the extra, or if another package hides ours.
    """
    hidden = hidden_package(["registry"])
    if hidden is not None:
        raise Unavailable(hidden)
    missing = [name for name in ("fastapi", "sqlalchemy", "alembic") if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"a registry in a folder ({config.url}) needs the extra that is not installed: pip install 'adapterctl[local]'; "
            "or set ADAPTERCTL_URL to a server's URL"
        )
    errors = importlib.import_module("registry.errors")
    try:
        yield
    except errors.RegistryError as error:
        raise_for(error.code.value, error.message, error.param)


#: The most rows to ask for at once.
_PAGE = 500


def pages(
    transport: Transport, path: str, row: type[T], *, params: dict[str, Any] | None = None, limit: int | None = None
) -> Iterator[T]:
    """Yield the rows of a list, at most `limit` if given; each page is requested when it is needed.

    Raises InvalidInput, before anything is requested, if the limit is less than 1.
    """
    if limit is None:
        return _rows(transport, path, row, {"limit": _PAGE, **(params or {})})
    if limit < 1:
        raise InvalidInput(f"limit is {limit}; give 1 or more", param="limit")
    return islice(_rows(transport, path, row, {"limit": min(limit, _PAGE), **(params or {})}), limit)


def _rows(transport: Transport, path: str, row: type[T], params: dict[str, Any]) -> Iterator[T]:
    cursor: str | None = None
    while True:
        given = {**params, "cursor": cursor}
        page = transport.call("GET", path, Page[row], params=given)  # type: ignore[valid-type]
        yield from page.items
        cursor = page.next
        if cursor is None:
            return
