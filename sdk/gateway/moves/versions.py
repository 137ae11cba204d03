"""A version on its way into an engine and out of it: its states, and what is shown of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from sdk.gateway.tables.model_names import NamedVersion


class ServingState(StrEnum):
    """Where a version is."""

    #: Wanted; nothing has been begun.
    WANTED = "wanted"
    #: Its files are fetched, leased and hashed.
    PULLING = "pulling"
    #: The engine is given its folder; also again, after the engine was started anew.
    LOADING = "loading"
    #: It is compared with its record. No request gets it yet.
    PROBING = "probing"
    #: Requests get it.
    SERVING = "serving"
    #: It can't be served, for a reason; it is tried again when the table says something else of its adapter, or after a pause.
    REFUSED = "refused"
    #: It is taken out of the engine; no request is running, and none begins.
    RELEASING = "releasing"


class Proof(StrEnum):
    """What the comparison with a version's record said."""

    PASSED = "passed"
    #: Its effect is too weak, at the engine's precision, to be told from rounding.
    UNDECIDABLE = "undecidable"
    #: It has no record.
    UNPROBED = "unprobed"


@dataclass(frozen=True)
class Fetched:
    """A version's files: verified, and leased until they are released."""

    folder: Path


@dataclass
class MoveTimes:
    """When each step of a move was done, in seconds since 1970; None: not yet, or it was done before."""

    seen: float = field(default_factory=time.time)
    pulled: float | None = None
    loaded: float | None = None
    probed: float | None = None
    switched: float | None = None

    def __str__(self) -> str:
        """Return when it was seen, and the seconds of each step."""
        seen = datetime.fromtimestamp(self.seen, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        words, before = [f"seen {seen}"], self.seen
        for name in ("pulled", "loaded", "probed", "switched"):
            at: float | None = getattr(self, name)
            if at is not None:
                words.append(f"{name} +{max(0.0, at - before):.3f} s")
                before = at
        return ", ".join(words)


@dataclass(frozen=True)
class VersionStatus:
    """What is shown of a version."""

    name: str
    digest: str
    state: ServingState
    proof: Proof | None
    #: Why it is refused, in a sentence.
    reason: str | None
    running: int
    #: The names that mean it now.
    names: tuple[str, ...]
    times: MoveTimes


@dataclass(frozen=True)
class NameStatus:
    """What is shown of a name that is kept moving."""

    name: str
    #: The version that requests get; None: none is served.
    serving: str | None
    #: The version that the table says; None: the table doesn't have the name, or what it means may not be moved to.
    wanted: str | None
    #: Why the two differ, in a sentence; None if they don't, or it is on its way.
    reason: str | None


class PlacedVersion:
    """A version that is wanted, served or leaving. It belongs to `Moves` alone."""

    def __init__(self, named: NamedVersion) -> None:
        self.named = named
        self.state = ServingState.WANTED
        self.proof: Proof | None = None
        self.reason: str | None = None
        #: Requests that got it, and have not ended; and those that wait for it.
        self.running = self.waiting = 0
        self.times = MoveTimes()
        #: When it was last used, by the monotonic clock.
        self.used_s = time.monotonic()
        #: Not to be tried again before, by the monotonic clock, and how often it was refused in a row.
        self.retry_s = 0.0
        self.refusals = 0
        #: Whether it was refused for something that passes by itself, such as an engine that is away.
        self.is_passing = False
        #: Whether the engine last showed another base than its record's.
        self.is_other_base = False
        #: Its files, from their lease to its end.
        self.fetched: Fetched | None = None
        #: What is being done with it; one thing at a time.
        self.task: asyncio.Task[None] | None = None
        #: Set when the table doesn't have it any more.
        self.withdrawn = asyncio.Event()

    @property
    def name(self) -> str:
        """Its name in the engine."""
        return self.named.name

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return self.named.version.digest

    def is_of(self, named: NamedVersion | None) -> bool:
        """Whether this is a version of the table, by name and digest; whether it is archived changes."""
        return named is not None and (named.name, named.version.digest) == (self.name, self.digest)

    @property
    def is_busy(self) -> bool:
        """Whether something is being done with it."""
        return self.task is not None and not self.task.done()
