"""Who is at the other end, and hosts as requests name them, in one spelling each.

>>> neighbourhood("192.0.2.7"), neighbourhood("2001:db8::7")
('192.0.2.7', '2001:db8::/64')
>>> parse_authority("LocalHost.:8011"), parse_authority("[::1]"), parse_authority("a b")
(('localhost', '8011'), ('::1', None), None)
>>> is_origin_of("http://localhost:8011", ("localhost", "8011")), is_origin_of("null", ("localhost", None))
(True, False)
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

#: A host and perhaps a port, as in `Host`; an address of IPv6 in brackets.
_AUTHORITY = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?")
#: No name is longer in the DNS; a port and brackets may be added.
_MAX_CHARACTERS = 270
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is, that of IPv4 if it is only mapped to IPv6; None if it is none."""
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed


@lru_cache(4096)
def neighbourhood(address: str) -> str:
    """The addresses that share a limit: a single one of IPv4, and the 2^64 of IPv6 that one machine may give itself."""
    parsed = parse_address(address)
    if parsed is None:
        return ascii(address[:100])
    return str(ip_network((parsed, 64), strict=False) if isinstance(parsed, IPv6Address) else parsed)


@lru_cache(256)
def parse_authority(authority: str) -> tuple[str, str | None] | None:
    """A host in its plain spelling and the port after it; None for what is not a host."""
    found = _AUTHORITY.fullmatch(authority) if len(authority) <= _MAX_CHARACTERS else None
    if found is None:
        return None
    address, name = found["address"], found["name"]
    plain = plain_address(address) if address else plain_address(name) or name.lower().removesuffix(".")
    return (plain, found["port"] or None) if plain else None


def plain_address(text: str) -> str | None:
    """An address in its plain spelling; None for what is none."""
    parsed = parse_address(text)
    return None if parsed is None else str(parsed)


def is_loopback(host: str) -> bool:
    """Whether a host in its plain spelling is this machine for itself alone."""
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_loopback


def is_origin_of(origin: str, host: tuple[str, str | None]) -> bool:
    """Whether a page of this origin was served by this host and port."""
    scheme, _, authority = origin.partition("://")
    page = parse_authority(authority)
    if page is None or scheme not in _DEFAULT_PORTS:
        return False
    usual = _DEFAULT_PORTS[scheme]
    return page[0] == host[0] and int(page[1] or usual) == int(host[1] or usual)
