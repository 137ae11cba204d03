"""Whether the parts that this process depends on can be used.

They are looked at in threads of their own, one look at a time and one a second however many ask, and with a deadline of
their own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from registry.db.database import Database
from registry.errors import RegistryError, Unavailable
from registry.pools import Pool
from registry.storage import Storage, StorageError

#: How long an answer is reused, in seconds.
CACHED_S = 1.0
#: How long to wait for an answer, in seconds: probes wait for five at most.
DEADLINE_S = 2.0
_POOL = Pool(
    "looks at parts",
    waits="`/readyz`, 2 s; however many ask, one look per second serves them all",
    at_once="1 of each part (database, storage)",
    item="one read of the database, one call to the store",
    share="none is needed: a look is for everybody",
)


@dataclass
class _Look:
    """One look at one part, in progress or done."""

    done: Future[str | None]
    began: float


class Readiness:
    """Looks at the parts that a server needs; a look raises if its part can't be used."""

    def __init__(
        self,
        looks: Mapping[str, Callable[[], None]],
        *,
        cached_s: float = CACHED_S,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._looks = looks
        self._cached_s = cached_s
        self._deadline_s = deadline_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, _Look] = {}

    async def require(self) -> None:
        """Return if all parts can be used. Otherwise raises Unavailable, which says which can't, and why."""
        looks = {part: self._latest(part) for part in self._looks}
        waiting = [asyncio.wrap_future(look.done) for look in looks.values()]
        # A look that was started for an earlier request is nearly over, or is late.
        left_s = min(look.began for look in looks.values()) + self._deadline_s - self._clock()
        await asyncio.wait(waiting, timeout=max(0.0, left_s))
        found = [
            f"the {part} does not answer; check that it runs" if not look.done.done() else look.done.result()
            for part, look in looks.items()
        ]
        if wrong := [sentence for sentence in found if sentence is not None]:
            raise Unavailable("; ".join(wrong))

    def _latest(self, part: str) -> _Look:
        """The look at a part that is in progress, or was done just now; else a new one."""
        with self._lock:
            last, now = self._last.get(part), self._clock()
            if last is None or (last.done.done() and now - last.began >= self._cached_s):
                last = self._last[part] = _Look(Future(), now)
                _POOL.thread(_run, name=f"look-{part}", look=self._looks[part], done=last.done).start()
            return last


def _run(look: Callable[[], None], done: Future[str | None]) -> None:
    try:
        look()
    except (RegistryError, StorageError) as error:
        done.set_result(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the part can't be used
        done.set_result(f"{type(error).__name__}: {error}")
    else:
        done.set_result(None)


def looks_at(db: Database, storage: Storage) -> dict[str, Callable[[], None]]:
    """The looks at the database and the storage of a registry."""

    def look_at_database() -> None:
        db.require_current(or_newer=True)
        db.require_room()

    return {"database": look_at_database, "storage": storage.check}
