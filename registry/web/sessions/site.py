"""What browsers are told about this server: its origin, and the name of the session's cookie.

>>> from starlette.requests import Request
>>> asked = Request({"type": "http", "scheme": "http", "path": "/ui/", "headers": [(b"host", b"registry.example.com")]})
>>> Site("https://registry.example.com").is_secure(asked), Site(None).is_secure(asked)
(True, False)
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from registry.errors import Forbidden, Unauthenticated
from registry.http.paths import PAGES
from sdk.formats.hosts import is_loopback, is_origin_of, parse_authority

_NAME = "adapterctl_session"


@dataclass(frozen=True)
class Site:
    """The pages of one server.

    Whether browsers reach it by TLS is said by `public_url`, except on loopback; or by the connection, which may be that of
    a proxy that the settings trust.
    """

    public_url: str | None
    #: Of a server that runs once, for one browser: its cookies are no later one's.
    start: str = ""

    def is_secure(self, request: Request) -> bool:
        """Whether the browser that sends a request must have come by https."""
        if request.url.scheme == "https":
            return True
        host = parse_authority(request.headers.get("Host", ""))
        by_tls = urlsplit(self.public_url or "").scheme.lower() == "https"
        return by_tls and host is not None and not is_loopback(host[0])

    def require_own_origin(self, request: Request) -> None:
        """Raise Forbidden unless the browser says that a page of this origin sends the request."""
        origins, host = request.headers.getlist("Origin"), parse_authority(request.headers.get("Host", ""))
        origin = origins[0] if len(origins) == 1 else ""
        if host is None or not is_origin_of(origin, host) or request.headers.get("Sec-Fetch-Site", _OWN) != _OWN:
            raise Forbidden(
                "a page of another site may change nothing here; open the registry's own page", param="Origin"
            )
        if self.is_secure(request) and not origin.startswith("https:"):
            raise Forbidden(f"these pages are only at {self.public_url}; open them there", param="Origin")

    def cookie_of(self, request: Request) -> str:
        """Return the value of the session's cookie; "" without one.

        Raises Unauthenticated for two: another server of this host has set one of them.
        """
        name = self._name_of(request)
        pairs = (pair.partition("=") for line in request.headers.getlist("Cookie") for pair in line.split(";"))
        given = {value.strip() for key, _, value in pairs if key.strip() == name}
        if len(given) > 1:
            raise Unauthenticated("the browser sends two sessions; remove this host's cookies, and sign in again")
        return given.pop() if given else ""

    def give(self, request: Request, response: Response, secret: str) -> None:
        """Let a browser keep a session."""
        response.set_cookie(
            self._name_of(request),
            secret,
            path=self._path(request),
            secure=self.is_secure(request),
            httponly=True,
            samesite="lax",
        )

    def take(self, request: Request, response: Response) -> None:
        """Let a browser forget its session."""
        response.delete_cookie(
            self._name_of(request),
            path=self._path(request),
            secure=self.is_secure(request),
            httponly=True,
            samesite="lax",
        )

    def _name_of(self, request: Request) -> str:
        # A browser sends cookies of one host to all its ports.
        return f"__Host-{_NAME}" if self.is_secure(request) else f"{_NAME}_{self.start or request.url.port or 80}"

    def _path(self, request: Request) -> str:
        # What `__Host-` asks for; the gate reads the cookie for pages alone.
        return "/" if self.is_secure(request) else PAGES


#: What browsers write into `Sec-Fetch-Site` if a page of this origin sends a request.
_OWN = "same-origin"
