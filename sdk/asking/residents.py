"""Engine programs that stay for a while after a command, so that the next one has its answer at once.

::

    CACHE/engines/KEY/resident.json   its process, socket and base
    CACHE/engines/KEY/printed, log    what it printed, and its log
    CACHE/engines/KEY/socket          only its owner can reach it
    CACHE/engines/begun-PID-…/        one that a process has begun, and not told yet what it is to hold
    CACHE/engines/refs/               what refs meant a short while ago; `memory.py` has more

There is one for each base, as it is held, in a cache. It ends by itself; whoever finds that it has ended cleans up after it.
"""

from __future__ import annotations

import hashlib
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
from sdk.asking.programs import BegunProgram, EngineBase, EngineProgram, is_ready, log_of, wait_until_ready
from sdk.errors import disk_explained
from sdk.process_starts import process_started_at
from sdk.pulling.cache import Cache
from sdk.whole_files import write_whole

_RECORD = "resident.json"
_BEGUN = "begun-"
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
    def is_alive(self) -> bool:
        """Whether it is running."""
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
    return found if found is not None and found.is_alive and is_ready(folder) else None


def residents(cache: Cache) -> list[Resident]:
    """Return the running programs of a cache, the oldest first."""
    found = [resident for folder in _folders(cache) if (resident := _read(folder)) is not None and resident.is_alive]
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
        if found is not None and found.is_alive and found.pid != leaving:
            # Whoever started it may have been killed before it was ready.
            wait_until_ready(folder, base, lambda: found.is_alive)
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
    _sweep_begun(cache)
    if any(cache.engines.glob(f"{_BEGUN}*")):
        return None
    prefix = f"{_BEGUN}{os.getpid()}-{_mark_of(os.getpid())}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=cache.engines))
    try:
        return BegunProgram(folder, stays=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def end_residents(cache: Cache) -> list[Resident]:
    """End every program of a cache, and return those that ran."""
    ran = residents(cache)
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
            if free and ((found := _read(folder)) is None or not found.is_alive):
                _clean(cache, folder)
    _sweep_begun(cache)


def _sweep_begun(cache: Cache) -> None:
    for folder in cache.engines.glob(f"{_BEGUN}*"):
        pid, _, rest = folder.name.removeprefix(_BEGUN).partition("-")
        # The program has ended with the process that began it.
        if not pid.isdecimal() or rest.partition("-")[0] != _mark_of(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _mark_of(pid: int) -> str | None:
    """Return what tells a process from a later one with its number; None if it has ended."""
    started_at = process_started_at(pid)
    return None if started_at is None else hashlib.sha256(started_at.encode()).hexdigest()[:8]


def _clean(cache: Cache, folder: Path) -> None:
    """Remove the files and leases of a program that has ended, whose lock is held."""
    from sdk.pulling.leases import leases_of, release

    owner = owner_of(folder.name)
    for one in leases_of(cache, owner):
        release(cache, one.digest, owner)
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
            if resident.is_alive:
                os.kill(resident.pid, number)
            return
        # The descriptor always stands for one process, even if another one gets the number between look and signal.
        descriptor = os.pidfd_open(resident.pid)
        try:
            if resident.is_alive:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _gone_within(resident: Resident, seconds: float) -> bool:
    deadline_s = time.monotonic() + seconds
    while resident.is_alive:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True
