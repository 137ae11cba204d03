"""What one server process accepts from the network."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.http.addresses import Network, parse_proxies
from registry.http.request_bodies import LONGEST_BODY_BYTES
from registry.pools import Pool
from registry.settings import Settings

#: How much all answers that clients have not fetched yet may take, in bytes.
UNSENT_BYTES = 16 * 1024 * 1024
#: The longest URL, in bytes.
MOST_URL_BYTES = 16 * 1024
Pool(
    "connections",
    waits="requests on a connection, behind the one that is being answered",
    at_once="`REGISTRY_MAX_CONNECTIONS` (2,000), of which `REGISTRY_MAX_CONNECTIONS_PER_ADDRESS` (256) from one address",
    item="one request; 8 more may wait on its connection",
    share="an address: nobody has said who they are",
)
Pool(
    "answers",
    waits="answers until their clients fetch them",
    at_once="by bytes",
    item="a page of a list; 60 s in which nothing is fetched",
    share="none is needed: those that stand still are given up first",
    most_bytes=UNSENT_BYTES,
)


@dataclass(frozen=True)
class Limits:
    """The settings that are about connections, as the protocol needs them."""

    connections: int
    connections_per_address: int
    #: From the beginning of a connection or a request to the end of its headers.
    head_s: float
    #: The limit for a body.
    least_bytes_per_s: float
    #: How long a body may take to begin.
    grace_s: float
    trusted: tuple[Network, ...] = ()
    #: The size of the request line and all headers together; the number of headers; and the size of the URL.
    head_bytes: int = field(default=32 * 1024, kw_only=True)
    headers: int = field(default=100, kw_only=True)
    url_bytes: int = field(default=MOST_URL_BYTES, kw_only=True)
    #: How many connections beyond the limits are accepted to be told why they are refused, and for probes.
    reserve: int = field(default=64, kw_only=True)
    #: How long a body that came in fast may pause, and how long an answer that nobody fetches is kept.
    still_s: float = field(default=60.0, kw_only=True)
    #: How many requests on one connection may wait for the one before them.
    pipelined: int = field(default=8, kw_only=True)
    #: How much of a body may come in after its request was answered; beyond that, the connection is closed. Whoever
    #: sends no more than a route could have read gets to the answer that came before that.
    drain_bytes: int = field(default=LONGEST_BODY_BYTES + 1024 * 1024, kw_only=True)
    drain_s: float = field(default=5.0, kw_only=True)
    #: How much all answers that clients have not fetched yet may take; beyond that, those that stand still are given
    #: up.
    unsent_bytes: int = field(default=UNSENT_BYTES, kw_only=True)

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits by the settings."""
        return cls(
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            head_s=settings.head_timeout_s,
            least_bytes_per_s=settings.min_bytes_per_s,
            grace_s=settings.body_grace_s,
            trusted=parse_proxies(settings.trusted_proxies),
        )
