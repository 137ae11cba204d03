"""For which hosts a server answers, and, if it asks for no tokens, which web pages may use it.

A web page can point a name of its own at any address, this server's too, and then read what the browser gets from there
(DNS rebinding). Such requests have the page's name in `Host`. So each request has to name a host of this server; without
tokens, a request that a page of another origin has sent is refused as well.

>>> hosts = HostNames.parsed("registry.example.com, *.internal.example, 10.0.0.5", param="REGISTRY_ALLOWED_HOSTS")
>>> [hosts.has(name) for name in ("registry.example.com", "a.b.internal.example", "10.0.0.5", "other.example.com")]
[True, True, True, False]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.errors import Forbidden, Invalid, Misdirected, RegistryError
from registry.http.addresses import neighbourhood_of
from registry.http.paths import area_of
from registry.http.refusals import REFUSALS, refused
from sdk.formats.hosts import is_loopback, is_origin_of, parse_authority, plain_address

_VARIABLE = "REGISTRY_ALLOWED_HOSTS"


@dataclass(frozen=True)
class HostNames:
    """Hosts by name, by address, or all below a domain; ports, case and a dot at the end make no difference."""

    exact: frozenset[str] = frozenset()
    #: Ends of names, each with a dot before it; all names end with "".
    ends: tuple[str, ...] = ()

    @classmethod
    def parsed(cls, text: str | None, *, param: str) -> HostNames:
        """The hosts that a setting names, separated by commas; `*.DOMAIN` is all below a domain, `*` all there are.

        Raises Invalid.
        """
        parts = [part.strip() for part in (text or "").split(",") if part.strip()]
        exact: set[str] = set()
        ends: set[str] = set()
        for part in parts:
            name = "" if part == "*" else _bare(part.removeprefix("*."))
            if name is None:
                raise Invalid(
                    f"{param} has {part[:80]!a}, which is not a host's name or address; set it like "
                    "registry.example.com,*.internal.example,10.0.0.5",
                    param=param,
                )
            if part.startswith("*"):
                ends.add(f".{name}" if name else "")
            else:
                exact.add(name)
        return cls(frozenset(exact), tuple(sorted(ends)))

    def has(self, name: str) -> bool:
        """Whether a host in its plain spelling is among them; loopback names and addresses always are."""
        return is_loopback(name) or name in self.exact or name.endswith(self.ends)


def hosts_of(*, auth: Literal["token", "none"], public_url: str | None, allowed: str | None) -> HostNames:
    """The hosts for which a server answers by its settings, in addition to loopback. Raises Invalid.

    Without tokens there are no others: whoever can send it a request is its admin.
    """
    named = HostNames.parsed(allowed, param=_VARIABLE)
    if auth == "none":
        return HostNames()
    try:
        public = urlsplit(public_url or "").hostname
    except ValueError:
        public = None
    own = None if public is None else _bare(public)
    return named if own is None else HostNames(named.exact | {own}, named.ends)


class AnswerOwnHosts:
    """ASGI middleware: answers 421 if a request names none of this server's hosts, and 403 if it comes from a page of
    another origin and such pages are refused.

    Only `Host` counts, which a browser sets: anybody may write an `X-Forwarded-Host`.
    """

    def __init__(self, app: ASGIApp, *, hosts: HostNames, refuses_pages: bool) -> None:
        self._app = app
        self._hosts = hosts
        self._refuses_pages = refuses_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http" or area_of(scope["path"]).any_host:
            await self._app(scope, receive, send)
            return
        try:
            self._require(scope)
        except RegistryError as error:
            address = neighbourhood_of(scope.get("client"))
            why: Literal["misdirected", "forbidden"] = "misdirected" if isinstance(error, Misdirected) else "forbidden"
            REFUSALS.note(why, address, "refused a request from %s: %s", address, error.message)
            await refused(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _require(self, scope: Scope) -> None:
        hosts = [value.decode("latin-1").strip(" \t") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            raise Misdirected("a request names exactly one host; send it with one header Host", param="Host")
        host = parse_authority(hosts[0])
        if host is None or not self._hosts.has(host[0]):
            raise Misdirected(self._explained(hosts[0]), param="Host")
        if not self._refuses_pages:
            return
        for origin in (value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"):
            if not is_origin_of(origin, host):
                raise Forbidden(
                    f"a web page of {origin[:100]!a} may not use this registry, which asks for no token "
                    "(REGISTRY_AUTH=none); use the command line, or a page of the registry itself",
                    param="Origin",
                )

    def _explained(self, host: str) -> str:
        shown = host[:100]
        if self._refuses_pages:
            return (
                f"this registry asks for no token (REGISTRY_AUTH=none), so it answers for loopback names only and not for "
                f"{shown!a}; ask for http://127.0.0.1 with its port, or set REGISTRY_AUTH=token and {_VARIABLE}"
            )
        return (
            f"this registry does not answer for the host {shown!a}; ask for one of its own, or add it to {_VARIABLE} where the "
            "registry runs"
        )


def _bare(text: str) -> str | None:
    """The host of a setting in its plain spelling: there, an address of IPv6 also comes without brackets."""
    if (address := plain_address(text)) is not None:
        return address
    found = parse_authority(text)
    return None if found is None else found[0]
