"""Engine programs that stay for a while after a command, so that the next one has its answer at once.

::

    CACHE/engines/KEY/resident.json   its process, socket and base
    CACHE/engines/KEY/printed, log    what it printed, and its log
    CACHE/engines/KEY/socket          only its owner can reach it
    CACHE/engines/KEY/held            locked as long as the program lives
    CACHE/engines/begun-…/            one that a process has begun, and not told yet what it is to hold; it has `held` too
    CACHE/engines/refs/               what refs meant a short while ago; `memory.py` has more

There is one for each base, as it is held, in a cache and on a host. It ends by itself; whoever finds that it has ended cleans up after
it. Containers may share a cache: a program is known to live by its lock, and its number counts where it means that program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdk.asking.connection import EngineAway, EngineRefusal, call
from sdk.asking.programs import BegunProgram, EngineBase, EngineProgram, is_held, is_ready, log_of, wait_until_ready
from sdk.errors import disk_explained
from sdk.process_starts import process_started_at
from sdk.pulling.cache import Cache
from sdk.whole_files import write_whole

_RECORD = "resident.json"
_BEGUN = "begun-"
#: The lock under which programs are begun, and what is left of them is removed.
_BEGINNING = "beginning an engine"
_KEY = re.compile(r"[0-9a-f]{16}")
_TERMINATE_S, _KILL_S, _LOOK_EVERY_S = 10.0, 10.0, 0.02


@dataclass(frozen=True)
class Resident:
    """An engine program that may answer."""

    key: str
    pid: int
    #: An opaque text by which it is told from a later process with its number.
    started_at: str
    socket: str
    base: EngineBase
    #: For how many seconds it waits for a question.
    idle_s: float
    #: When it was started, in seconds since 1970.
    since_s: float

    @property
    def is_here(self) -> bool:
        """Whether it is running, and its number is its own here."""
        return bool(self.started_at) and process_started_at(self.pid) == self.started_at

    @property
    def owner(self) -> str:
        """Whose the leases on the folders of its adapters are."""
        return owner_of(self.key)

    def health(self) -> dict[str, Any] | None:
        """Return what it says of itself; None if it doesn't answer."""
        try:
            return call(self.socket, "GET", "/health")
        except (EngineAway, EngineRefusal):
            return None


def owner_of(key: str) -> str:
    """Return the owner of the leases of a resident."""
    return f"ask-{key}"


def find_resident(cache: Cache, key: str) -> Resident | None:
    """Return the running program with a key, if it is ready."""
    folder = _folder(cache, key)
    found = _read(folder)
    return found if found is not None and _is_alive(folder, found) and is_ready(folder) else None


def residents(cache: Cache) -> list[Resident]:
    """Return the running programs of a cache, the oldest first."""
    found = [
        resident
        for folder in _folders(cache)
        if (resident := _read(folder)) is not None and _is_alive(folder, resident)
    ]
    return sorted(found, key=lambda resident: resident.since_s)


def resident_log(cache: Cache, resident: Resident) -> Path:
    """Where the log of a resident is."""
    return log_of(_folder(cache, resident.key))


def start_resident(
    cache: Cache,
    base: EngineBase,
    *,
    idle_s: float,
    leaving: int | None = None,
    begun: BegunProgram | None = None,
    on_start: Callable[[], object] = lambda: None,
) -> Resident:
    """Return a program that is ready: a running one, or a new one. Of processes that come together, one starts it.

    `leaving` is the process of one that is about to end, which is replaced; `begun` is told, if a new one is needed; `on_start` is
    called before a start. Raises
    InvalidBase, InvalidInput, Unavailable, TimedOut.
    """
    folder = _folder(cache, base.key)
    with disk_explained("starting an engine program"), cache.lock(f"engine {base.key}"):
        found = _read(folder)
        if found is not None and _is_alive(folder, found) and found.pid != leaving:
            # Whoever started it may have been killed before it was ready.
            wait_until_ready(folder, base, lambda: _is_alive(folder, found))
            return found
        on_start()
        sweep(cache)
        _clean(cache, folder)
        program = EngineProgram(base, folder, idle_s=idle_s, begun=begun)
        try:
            made = Resident(
                base.key,
                program.pid,
                process_started_at(program.pid) or "",
                program.socket,
                base,
                idle_s,
                time.time(),
            )
            write_whole(folder / _RECORD, json.dumps(asdict(made), indent=1) + "\n", durable=False, mode=0o600)
            program.ready()
        except BaseException:
            program.end()
            _clean(cache, folder)
            raise
        program.detach()
        return made


def begin_resident(cache: Cache) -> BegunProgram | None:
    """Have a program import its libraries that `start_resident` may tell later what it is to hold; None if another process does so:
    commands that come together need one. Raises Unavailable, OSError.
    """
    cache.keep_private()
    cache.engines.mkdir(parents=True, exist_ok=True, mode=0o700)
    with cache.lock(_BEGINNING):
        _remove_left(cache)
        if any(cache.engines.glob(f"{_BEGUN}*")):
            return None
        folder = Path(tempfile.mkdtemp(prefix=_BEGUN, dir=cache.engines))
        try:
            return BegunProgram(folder, stays=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def end_residents(cache: Cache) -> list[Resident]:
    """End every program of a cache whose number means it here, and return those that ran."""
    ran = [resident for resident in residents(cache) if resident.is_here]
    for resident in ran:
        _send(resident, signal.SIGTERM)
    for resident in ran:
        if not _gone_within(resident, _TERMINATE_S):
            _send(resident, signal.SIGKILL)
            _gone_within(resident, _KILL_S)
    sweep(cache)
    return ran


def sweep(cache: Cache) -> None:
    """Remove what programs left that have ended: their files, and their leases of folders in the cache."""
    for folder in _folders(cache):
        with cache.lock_if_free(f"engine {folder.name}") as free:
            # Somebody who holds it starts one there.
            if free and ((found := _read(folder)) is None or not _is_alive(folder, found)):
                _clean(cache, folder)
    with cache.lock_if_free(_BEGINNING) as free:
        if free:
            _remove_left(cache)


def _remove_left(cache: Cache) -> None:
    """Remove the folders of begun programs that have ended with the process that began them. Nobody begins one meanwhile."""
    for folder in cache.engines.glob(f"{_BEGUN}*"):
        if not is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(folder: Path, resident: Resident) -> bool:
    """Whether a program is running, here or in another container."""
    return resident.is_here or is_held(folder)


def _clean(cache: Cache, folder: Path) -> None:
    """Remove the files and leases of a program that has ended, whose lock is held."""
    from sdk.pulling.leases import all_leases, release_as_shown

    owner = owner_of(folder.name)
    for views in all_leases(cache).values():
        for one in views:
            # Its name is its host's as well, which may be gone.
            if one.owner == owner:
                release_as_shown(cache, one)
    found = _read(folder)
    if found is not None and (own := Path(found.socket).parent) != folder and own.name.startswith("adapterctl-"):
        shutil.rmtree(own, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _folder(cache: Cache, key: str) -> Path:
    return cache.engines / key


def _folders(cache: Cache) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from sorted(path for path in cache.engines.iterdir() if _KEY.fullmatch(path.name))


def _read(folder: Path) -> Resident | None:
    """Read a record; None if there is none, or not a whole one of this release."""
    try:
        found = json.loads((folder / _RECORD).read_bytes())
        made = Resident(**{**found, "base": EngineBase(**found["base"])})
        # A record that something else has written may have anything in its fields, and everybody looks at each record.
        has_types = isinstance(made.pid, int) and all(isinstance(each, str) for each in (made.started_at, made.socket))
        return made if has_types and made.key == folder.name and isinstance(made.since_s, int | float) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _send(resident: Resident, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if resident.is_here:
                os.kill(resident.pid, number)
            return
        # The descriptor always stands for one process, even if another one gets the number between look and signal.
        descriptor = os.pidfd_open(resident.pid)
        try:
            if resident.is_here:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _gone_within(resident: Resident, seconds: float) -> bool:
    deadline_s = time.monotonic() + seconds
    while resident.is_here:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True
