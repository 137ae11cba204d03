"""What happens to requests at the fault proxy: drawn from a seed, or written by hand.

>>> plan = Plan(17)
>>> strike = plan.draw(Head(b"", ("GET", "/x", "HTTP/1.1"), {}))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from random import Random
from urllib.parse import urlsplit


class Fault(StrEnum):
    """What can happen to one request."""

    #: Nothing for a while; then all is well.
    LATENCY = "latency"
    #: The connection is reset while the request's body is sent.
    CUT_REQUEST = "cut request"
    #: The store gets everything and answers, and the connection is reset before the client hears of it.
    SWALLOWED = "swallowed answer"
    #: The connection ends while the answer's body is read.
    CUT_RESPONSE = "cut response"
    #: The answer is shorter than the object, and says so.
    TRUNCATED = "truncated response"
    #: A bit of the request's body is another one.
    CORRUPT_REQUEST = "corrupt request"
    #: A bit of the answer's body is another one.
    CORRUPT_RESPONSE = "corrupt response"
    #: The object is another one for some requests: other bytes, another ETag, 412 to the old one.
    REPLACED = "replaced object"
    #: 503, as a store says that is asked too much.
    UNAVAILABLE = "503"
    #: 403, as a store says of a URL whose time is up.
    EXPIRED = "403"


#: What may happen to a request that sends something, and to one that reads.
SENDING = (
    Fault.LATENCY,
    Fault.CUT_REQUEST,
    Fault.SWALLOWED,
    Fault.CORRUPT_REQUEST,
    Fault.UNAVAILABLE,
    Fault.EXPIRED,
)
READING = (
    Fault.LATENCY,
    Fault.SWALLOWED,
    Fault.CUT_RESPONSE,
    Fault.TRUNCATED,
    Fault.CORRUPT_RESPONSE,
    Fault.REPLACED,
    Fault.UNAVAILABLE,
    Fault.EXPIRED,
)


@dataclass(frozen=True)
class Strike:
    """One fault, and the numbers that it needs."""

    kind: Fault
    #: Where in the body, as a part of it below 1.
    at: float = 0.5
    wait_s: float = 0.0
    #: Which of a few variants, and which bit of a byte.
    variant: int = 0


class Plan:
    """What happens to each request, in the order of arrival. The number of faults is bounded, so who tries on comes
    through.
    """

    def __init__(self, seed: object, *, most: int = 8) -> None:
        self._random = Random(f"plan {seed}")
        self._left = self._random.randint(0, most)
        self._odds = self._random.choice((0.2, 0.5, 0.9))
        #: What was done to which request, to be shown when a run fails.
        self.dealt: list[str] = []
        #: By path: for how many more requests it is another object.
        self.replaced: dict[str, int] = {}

    def draw(self, request: Head) -> Strike | None:
        """Return what is to happen to a request."""
        random = self._random
        hit = random.random() < self._odds
        kind = random.choice(READING if request.method in {"GET", "HEAD"} else SENDING)
        strike = Strike(kind, random.random(), random.uniform(0.005, 0.12), random.randrange(8))
        if not hit or self._left == 0:
            return None
        self._left -= 1
        return strike


class Script(Plan):
    """A plan that was written by hand: what happens to the first requests of one method, then nothing more."""

    def __init__(self, strikes: Iterable[Strike | None], *, method: str = "GET") -> None:
        super().__init__("script", most=0)
        self._strikes = list(strikes)
        self._method = method

    def draw(self, request: Head) -> Strike | None:
        """Return the next line."""
        return self._strikes.pop(0) if self._strikes and request.method == self._method else None


class Endless(Plan):
    """No request comes through: all of `faults` happen in turn, to requests of the methods that they can happen to."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        super().__init__("endless", most=0)
        faults = tuple(faults)
        self._sending = cycle([fault for fault in faults if fault in SENDING])
        self._reading = cycle([fault for fault in faults if fault in READING])

    def draw(self, request: Head) -> Strike | None:
        """Return the next of those that there are for this method."""
        kind = next(self._reading if request.method in {"GET", "HEAD"} else self._sending, None)
        return None if kind is None else Strike(kind)


@dataclass(frozen=True)
class Head:
    """The first lines of a request or an answer."""

    raw: bytes
    first: tuple[str, str, str]
    headers: dict[str, str]

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first[0]

    @property
    def target(self) -> str:
        """Of a request: path and query."""
        return self.first[1]

    @property
    def path(self) -> str:
        """Of a request."""
        return urlsplit(self.target).path

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first[1])

    @property
    def length_bytes(self) -> int | None:
        """How long the body says that it is."""
        said = self.headers.get("content-length")
        return None if said is None else int(said)

    def replacing(self, **changed: str) -> bytes:
        """The lines with some headers changed; `_` stands for `-`."""
        wanted = {name.replace("_", "-"): value for name, value in changed.items()}
        lines = self.raw[:-4].split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in wanted]
        added = [f"{name}: {value}".encode("latin-1") for name, value in wanted.items()]
        return b"\r\n".join([*kept, *added, b"", b""])
