"""What the names of the served namespaces mean, as the registry last said: looked up every few seconds, and at once when it
changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sdk.errors import AdapterctlError, Incompatible, NotAllowed, NotFound, RateLimited, TimedOut, Unavailable
from sdk.gateway.tables.table_file import LastTable, TableFile
from sdk.schemas.serving import ServedAdapter, ServingTable

#: How often tables are looked up whatever the feed says, in seconds: what is deleted is served for ten at most.
LOOK_S = 7.0
#: The pause after a feed that couldn't be asked, in seconds, and the one between two questions to it: whatever it says at once, again
#: and again, the registry isn't asked in a loop.
_PAUSE_S, _LEAST_S = 5.0, 0.2

#: For how long what a registry refuses to say, though it answers, is served as it was last said, in seconds.
REFUSED_S = 60.0

_log = logging.getLogger(__name__)


class TableSource(Protocol):
    """What is asked of a registry."""

    #: How often it is looked at, in seconds, and whether it says in between that something has changed.
    look_s: float
    has_feed: bool

    async def table(self, namespace: str, known: str | None) -> ServingTable | None:
        """Return a table; None if it is still the edition `known`. Raises AdapterctlError."""
        ...

    async def changed(self, namespace: str, after: str) -> bool:
        """Wait until a table has perhaps another edition, or for some time; return whether it may have. Raises AdapterctlError."""
        ...


@dataclass(frozen=True)
class TableAge:
    """How old the tables are."""

    #: When the registry last said all of them, and since when it is away, in seconds since 1970; None: never, and it isn't.
    looked_at: float | None
    away_since: float | None
    #: Since when a registry that answers refuses one of them, and by which code; None: it doesn't.
    refused_since: float | None = None
    refusal: str | None = None

    @property
    def texts(self) -> tuple[str | None, str | None, str | None]:
        """Return the three times as times of day."""
        return _text(self.looked_at), _text(self.away_since), _text(self.refused_since)


@dataclass(frozen=True)
class _Refusal:
    """What a registry that answers says instead of a table."""

    code: str
    #: When it first said so, in seconds since 1970, and by the monotonic clock.
    since: float
    since_s: float


class ServedTables:
    """The tables of some namespaces."""

    def __init__(
        self,
        registry: TableSource,
        files: Mapping[str, TableFile],
        *,
        say: Callable[[str], None] = lambda _line: None,
        refused_s: float = REFUSED_S,
    ) -> None:
        self._registry, self._files, self._say, self._refused_s = registry, files, say, refused_s
        self._refusals: dict[str, _Refusal] = {}
        self._last: dict[str, LastTable] = {}
        self._away_since: float | None = None
        self._look, self._looked = asyncio.Event(), asyncio.Event()

    @property
    def age(self) -> TableAge:
        """How old they are."""
        whole = len(self._last) == len(self._files)
        first = min(self._refusals.values(), key=lambda each: each.since_s, default=None)
        return TableAge(
            min(each.looked_at for each in self._last.values()) if whole else None,
            self._away_since,
            None if first is None else first.since,
            None if first is None else first.code,
        )

    async def start(self) -> None:
        """Look all of them up, or read the last ones while the registry is away.

        Raises Unavailable if it is away and there are no last ones, and what the registry says of a namespace that may not be seen.
        """
        for namespace, file in self._files.items():
            last = file.read()
            try:
                await self._ask(namespace, last)
            except (Unavailable, TimedOut) as error:
                if last is None or not _is_away(error):
                    raise
                self._last[namespace] = last
                self._note_away(error, last.looked_at)

    async def run(self, on_change: Callable[[Sequence[ServedAdapter]], None]) -> None:
        """Look again and again, without an end; `on_change` gets all adapters in them each time that something has changed."""
        feeds = [asyncio.create_task(self._follow(namespace)) for namespace in self._files if self._registry.has_feed]
        try:
            while True:
                begun = time.monotonic()
                self._look.clear()
                if await self.look():
                    on_change(self.adapters)
                self._looked.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._registry.look_s - (time.monotonic() - begun))):
                        await self._look.wait()
        finally:
            for feed in feeds:
                feed.cancel()

    async def look(self) -> bool:
        """Look all of them up once; return whether something has changed."""
        before = [self._last.get(namespace) for namespace in self._files]
        results = await asyncio.gather(*(self._look_at(namespace) for namespace in self._files))
        if all(results) and self._away_since is not None:
            self._away_since = None
            self._say("the registry is back")
        after = [self._last.get(namespace) for namespace in self._files]
        return [each and each.table for each in before] != [each and each.table for each in after]

    async def _look_at(self, namespace: str) -> bool:
        """Look one of them up; return whether the registry answered."""
        last = self._last.get(namespace)
        try:
            await self._ask(namespace, last)
        except (NotFound, NotAllowed) as error:
            # This gateway may not see the namespace any more, or there is none.
            self._refusals.pop(namespace, None)
            self._end(namespace, str(error))
        except AdapterctlError as error:
            away = _is_away(error)
            if away:
                self._note_away(error, time.time() if last is None else last.looked_at)
            else:
                self._note_refused(namespace, error)
            # Time goes on also while it is away.
            refusal = self._refusals.get(namespace)
            if refusal is not None and time.monotonic() - refusal.since_s >= self._refused_s:
                self._end(namespace, f"the registry has refused its table for {self._refused_s:g} s: {error}")
            return not away
        else:
            if self._refusals.pop(namespace, None) is not None:
                self._say(f"the registry says the table of the namespace {namespace} again")
        return True

    def _end(self, namespace: str, why: str) -> None:
        """Serve nothing of a namespace, also after a restart."""
        if namespace not in self._last or self._last[namespace].table.adapters:
            self._say(f"nothing of the namespace {namespace} is served any more: {why}")
        self._note(namespace, ServingTable(namespace=namespace, edition="", left_out=False, adapters=[]))

    async def _ask(self, namespace: str, last: LastTable | None) -> None:
        found = await self._registry.table(namespace, None if last is None else last.table.edition)
        if found is not None:
            self._note(namespace, found)
        elif last is not None:
            self._last[namespace] = LastTable(last.table, time.time())
            with suppress(OSError):
                self._files[namespace].touch()

    def _note(self, namespace: str, table: ServingTable) -> None:
        self._last[namespace] = LastTable(table, time.time())
        try:
            self._files[namespace].write(table)
        except OSError as error:
            self._say(
                f"the table of {namespace} can't be written ({error.strerror}); a restart without the registry won't have it"
            )

    async def _follow(self, namespace: str) -> None:
        """Look at once whenever the feed says so."""
        while True:
            await asyncio.sleep(_LEAST_S)
            last = self._last.get(namespace)
            try:
                if not await self._registry.changed(namespace, "" if last is None else last.table.edition):
                    continue
            except AdapterctlError:
                await asyncio.sleep(_PAUSE_S)
                continue
            self._looked.clear()
            self._look.set()
            # Until then it would say the same again.
            await self._looked.wait()

    def _note_refused(self, namespace: str, error: AdapterctlError) -> None:
        before = self._refusals.get(namespace)
        if before is None or before.code != error.code.value:
            self._say(
                f"the registry refuses the table of the namespace {namespace}, of which nothing is served any more unless it says it "
                f"within {self._refused_s:g} s: {error}"
            )
        since, since_s = (time.time(), time.monotonic()) if before is None else (before.since, before.since_s)
        self._refusals[namespace] = _Refusal(error.code.value, since, since_s)

    def _note_away(self, error: AdapterctlError, since: float) -> None:
        if self._away_since is None:
            self._away_since = since
            self._say(f"the registry is away, and what is loaded goes on: {error}")

    @property
    def adapters(self) -> list[ServedAdapter]:
        """All adapters in them."""
        return [adapter for each in self._last.values() for adapter in each.table.adapters]


def _is_away(error: AdapterctlError) -> bool:
    """Whether an error means that nothing answers; any other is an answer."""
    return isinstance(error, Unavailable | TimedOut) and not isinstance(error, Incompatible | RateLimited)


def _text(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
