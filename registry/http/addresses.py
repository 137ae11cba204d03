"""Who is at the other end of a connection, and which of them are proxies of ours."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from registry.errors import Invalid
from sdk.formats.hosts import neighbourhood, parse_address

Network = IPv4Network | IPv6Network


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
