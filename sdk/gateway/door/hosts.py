"""For which hosts a gateway answers, and for which web pages: its own alone.

A web page can point a name of its own at any address (DNS rebinding), this gateway's too; such a request has the page's name in
`Host`. A browser says in `Origin` whose page has sent a request.

>>> hosts = OwnHosts.of("127.0.0.1", [])
>>> hosts.require([(b"host", b"localhost:8011")], "127.0.0.1")
>>> hosts.require([(b"host", b"evil.example")], "127.0.0.1")
Traceback (most recent call last):
sdk.gateway.door.refusals.Declined: this gateway does not answer for the host 'evil.example'; ask for one of its own, or start it with --allow-host
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from sdk.formats.hosts import is_loopback, is_origin_of, parse_authority, plain_address
from sdk.gateway.door.refusals import Declined


@dataclass(frozen=True)
class OwnHosts:
    """The hosts of a gateway, in their plain spelling, besides loopback and the address at which a connection came in."""

    names: frozenset[str]

    @classmethod
    def of(cls, listening: str, allowed: Iterable[str]) -> OwnHosts:
        """Return those of a gateway that listens there, and for which it was told to answer."""
        spelt = [plain_address(each) or (parse_authority(each) or ("",))[0] for each in (listening, *allowed)]
        own = [] if is_loopback(spelt[0]) else [socket.gethostname().lower()]
        return cls(frozenset(name for name in [*spelt, *own] if name))

    def require(self, headers: Iterable[tuple[bytes, bytes]], address: str | None) -> None:
        """Raise Declined for a request to another host, or from another host's page; `address` is this end's."""
        hosts = [value for name, value in headers if name == b"host"]
        host = parse_authority(hosts[0].decode("latin-1").strip(" \t")) if len(hosts) == 1 else None
        if host is None or not (is_loopback(host[0]) or host[0] == address or host[0] in self.names):
            shown = ascii(hosts[0].decode("latin-1")[:100]) if len(hosts) == 1 else f"of {len(hosts)} headers"
            raise Declined(
                421,
                "misdirected",
                f"this gateway does not answer for the host {shown}; ask for one of its own, or start it with --allow-host",
                param="Host",
            )
        for name, value in headers:
            if name == b"origin" and not is_origin_of(value.decode("latin-1"), host):
                raise Declined(
                    403,
                    "forbidden",
                    f"a web page of {value.decode('latin-1')[:100]!a} may not use this gateway; send requests from a program",
                    param="Origin",
                )
