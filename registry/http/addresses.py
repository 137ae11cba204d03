"""Who is at the other end, for the purpose of limits.

>>> neighbourhood("192.0.2.7"), neighbourhood("2001:db8::7")
('192.0.2.7', '2001:db8::/64')
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from registry.errors import Invalid

Network = IPv4Network | IPv6Network


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


def neighbourhood_of(client: tuple[str, int] | None) -> str:
    """That of whoever is at the other end of a connection."""
    return neighbourhood(client[0]) if client else "unknown"


def parse_proxies(text: str | None) -> tuple[Network, ...]:
    """The networks of proxies that a setting names, separated by commas. Raises Invalid."""
    try:
        return tuple(ip_network(part.strip()) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise Invalid(
            f"REGISTRY_TRUSTED_PROXIES is not a list of addresses or networks ({error}); set it like 10.0.0.5,10.1.0.0/16",
            param="REGISTRY_TRUSTED_PROXIES",
        ) from None


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address is in one of the networks."""
    parsed = parse_address(address)
    return parsed is not None and any(parsed in network for network in networks)
