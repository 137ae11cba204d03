"""What one server process accepts from the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from registry.http.addresses import Network, parse_proxies
from registry.http.bodies import LONGEST_BODY_BYTES
from registry.pools import Pool
from registry.settings import Settings
from sdk.formats.http_limits import HEAD_S, MOST_HEAD_BYTES, MOST_HEADERS, MOST_PIPELINED

#: How much all answers that clients have not fetched yet may take, in bytes.
UNSENT_BYTES = 16 * 1024 * 1024
#: The longest URL, in bytes.
MOST_URL_BYTES = 16 * 1024
Pool(
    "connections",
    waits="requests on a connection, behind the one that is being answered",
    at_once="`REGISTRY_MAX_CONNECTIONS` (2,000), of which `REGISTRY_MAX_CONNECTIONS_PER_ADDRESS` (256) from one address",
    item=f"one request; {MOST_PIPELINED} more may wait on its connection",
    share="an address: nobody is signed in",
)
Pool(
    "answers",
    waits="answers until their clients fetch them",
    at_once="by bytes",
    item="a page of a list; 60 s in which nothing is fetched",
    share="none is needed: those that stand still are given up first",
    most_bytes=UNSENT_BYTES,
)


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What one server process accepts from the network."""

    connections: int
    #: A whole number, or infinity.
    connections_per_address: float
    #: From the beginning of a connection or a request to the end of its headers.
    head_s: float = HEAD_S
    #: How fast a body must come, once it has begun.
    least_bytes_per_s: float = 1024.0
    #: How long a body may take to begin.
    grace_s: float = 10.0
    #: How long a connection without a request is kept.
    idle_s: float = 5.0
    trusted: tuple[Network, ...] = ()
    #: The size of the request line and all headers together; the number of headers; and the size of the URL.
    head_bytes: int = MOST_HEAD_BYTES
    headers: int = MOST_HEADERS
    url_bytes: int = MOST_URL_BYTES
    #: How many connections beyond the limits are accepted to be told why they are refused, and for probes.
    reserve: int = 64
    #: How long a body that came in fast may pause, and how long an answer that nobody fetches is kept.
    still_s: float = 60.0
    #: How many requests on one connection may wait for the one before them.
    pipelined: int = MOST_PIPELINED
    #: How much of a body may come in after its request was answered; beyond that, the connection is closed. Whoever
    #: sends no more than a route could have read gets to the answer that came before that.
    drain_bytes: int = LONGEST_BODY_BYTES + 1024 * 1024
    drain_s: float = 5.0
    #: How much all answers that clients have not fetched yet may take; beyond that, those that stand still are given
    #: up.
    unsent_bytes: int = UNSENT_BYTES

    @classmethod
    def of(cls, settings: Settings) -> ServerLimits:
        """The limits by the settings.

        With a proxy in front, those are left to it that it keeps as well: connections of an address, and the times that a
        client may take. What fills this process's memory is limited here in any case.
        """
        limits = cls(
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            trusted=parse_proxies(settings.trusted_proxies),
        )
        if not settings.behind_proxy:
            return limits
        return replace(
            limits, connections_per_address=math.inf, head_s=math.inf, least_bytes_per_s=0.0, idle_s=math.inf
        )
