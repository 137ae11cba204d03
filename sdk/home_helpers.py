"""Helpers: each is the registry of a folder that stays for a minute after a command, so that the next one finds it imported.

::

    RUNTIME/KEY.lock     held by the helper as long as it lives
    RUNTIME/KEY.socket   only its owner can reach it
    RUNTIME/KEY.json     its process, folder and release
    RUNTIME/KEY.log      its log

RUNTIME is `$XDG_RUNTIME_DIR/adapterctl`, or else `/tmp/adapterctl-UID`. There is one helper for each folder and each build of
adapterctl. It answers what the registry in the command's own process would answer, to the same user alone, and nobody needs it:
whoever gets no answer at once opens the folder itself. A helper migrates nothing and starts no process.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from sdk.file_locks import locked
from sdk.process_starts import process_started_at
from sdk.version import VERSION

#: The request that a command begins with, and the header of its answer with the build of the helper.
GREETING, BUILD_HEADER = "/helper/greeting", "X-Adapterctl-Build"
#: The header of an answer after which jobs wait: whoever gets it starts the runner, with its own environment.
RUNNER_HEADER = "X-Adapterctl-Runner"
#: Addressed by name, since the registry is imported only if its extra is installed.
MODULE = "registry.app.home_helper"
#: How long a command waits for a helper to answer at all.
_GREETED_S = 0.05
#: A socket's whole path has at most 104 bytes, on Linux 108.
_MOST_PATH_BYTES = 100
_MOST_ANSWER_BYTES = 16_384
#: How long who needs one that is being started waits for it.
_AWAITED_S = 10.0
_TERMINATE_S, _KILL_S, _LOOK_EVERY_S = 2.0, 2.0, 0.02
#: What the helper gets of the environment: what Python needs to start. It starts no job, and has no token.
_ENVIRONMENT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
    "XDG_RUNTIME_DIR",
)


@dataclass(frozen=True)
class HomeHelper:
    """A helper that may answer."""

    key: str
    pid: int
    #: An opaque text by which it is told from a later process with its number.
    started_at: str
    home: str
    version: str
    #: When it was started, in seconds since 1970.
    since_s: float

    @property
    def is_alive(self) -> bool:
        """Whether it is running."""
        return bool(self.started_at) and process_started_at(self.pid) == self.started_at


@dataclass(frozen=True)
class HelperPlace:
    """Where the helper of one folder is, and of one build."""

    home: Path
    runtime: Path
    key: str

    @property
    def socket(self) -> Path:
        """Its socket."""
        return self.runtime / f"{self.key}.socket"

    @property
    def lock(self) -> Path:
        """What it holds while it lives."""
        return self.runtime / f"{self.key}.lock"

    @property
    def record(self) -> Path:
        """What is known of it."""
        return self.runtime / f"{self.key}.json"

    @property
    def log(self) -> Path:
        """Its log."""
        return self.runtime / f"{self.key}.log"


def place_of(home: Path) -> HelperPlace | None:
    """Where the helper of a folder is; None if it can have none: it isn't there yet, can't be written to, or is not this user's."""
    try:
        home = home.resolve(strict=True)
        of_home, built = home.stat(), build()
    except OSError:
        return None
    if of_home.st_uid != os.getuid() or not os.access(home, os.W_OK) or not (home / "registry.sqlite3").exists():
        return None
    runtime = runtime_folder()
    if runtime is None:
        return None
    what = f"{home}\0{of_home.st_dev}\0{of_home.st_ino}\0{built}"
    return HelperPlace(home, runtime, hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:16])


def runtime_folder() -> Path | None:
    """The folder of this user's sockets, made if it is missing; None if somebody else could put something there."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    own = f"adapterctl-{os.getuid()}"
    tried = [Path(given) / "adapterctl"] if given.startswith("/") else []
    tried.append(Path(tempfile.gettempdir()) / own)
    # Names of sockets are short, and folders of temporary files may be deep.
    tried.append(Path("/tmp") / own)  # noqa: S108 - it must belong to this user, and nobody else may enter it
    for folder in tried:
        if len(os.fsencode(folder)) + len("/0123456789abcdef.socket") <= _MOST_PATH_BYTES and _is_private(folder):
            return folder
    return None


def _is_private(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


@cache
def build() -> str:
    """What tells this build from others: release, interpreter, installed packages, and each file of code in a checkout."""
    root = Path(__file__).resolve().parents[1]
    known = hashlib.sha256(f"{VERSION}\0{sys.executable}\0{sys.version}\0{root}".encode())
    for folder in (os.path.dirname(os.__file__) + "/site-packages", *sys.path):  # noqa: PTH120 - as it is written
        if folder.endswith("-packages"):
            # It changes with everything that is installed or removed.
            with suppress(OSError):
                known.update(f"{folder}\0{os.stat(folder).st_mtime_ns}".encode())  # noqa: PTH116 - in a loop
    for package in ("registry", "sdk", "adapterctl_entry"):
        for each in _changes(str(root / package)):
            known.update(each.to_bytes(16, "big"))
    return known.hexdigest()[:32]


def _changes(folder: str) -> Iterator[int]:
    """When each file of code below a folder was changed, in the order of their names."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.endswith(".py"):
            yield entry.stat().st_mtime_ns
        elif "." not in entry.name and entry.name != "__pycache__" and entry.is_dir():
            yield from _changes(entry.path)


def greet(place: HelperPlace, *, within_s: float = _GREETED_S) -> dict[str, str] | None:
    """Say that a command begins; return the headers of the answer, in lower case, or None if no helper of this build answers.

    What the registry does whenever a folder is opened is done by then. Takes `within_s` at most.
    """
    deadline_s = time.monotonic() + within_s
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as asked:
            asked.settimeout(within_s)
            asked.connect(str(place.socket))
            if peer_uid(asked) != os.getuid():
                return None
            asked.sendall(f"GET {GREETING} HTTP/1.1\r\nHost: helper\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < _MOST_ANSWER_BYTES:
                asked.settimeout(max(0.001, deadline_s - time.monotonic()))
                if not (part := asked.recv(_MOST_ANSWER_BYTES)):
                    return None
                answer += part
    except OSError:
        return None
    status, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    is_ours = status.startswith("HTTP/1.1 204 ") and headers.get(BUILD_HEADER.lower()) == build()
    return headers if is_ours else None


def peer_uid(connection: socket.socket) -> int | None:
    """Whose process is at the other end of a Unix socket; None where the system doesn't say."""
    if hasattr(socket, "SO_PEERCRED"):
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid: int = struct.unpack("3i", found)[1]
        return uid
    # Of macOS, whose structure begins with its version and the user.
    with suppress(OSError):
        version, uid = struct.unpack("2I", connection.getsockopt(0, 1, 76)[:8])
        return uid if version == 0 else None
    return None


def start_helper(place: HelperPlace) -> bool:
    """Start the helper of a folder, detached, unless there is one or somebody starts one; say whether it was started."""
    command = [sys.executable, "-P", "-m", MODULE, str(place.home), place.key]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        # Its log is begun anew once no other helper is left to write to it.
        with locked(place.lock, timeout_s=0) as lock, _new_log(place.log) as log:
            started = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
                env=environment,
                cwd="/",
            )
    except OSError:
        # Also if somebody has the lock.
        return False
    # It outlives this process, so nobody waits for its end.
    _STARTED.append((place, started))
    return True


def begin_helper(home: Path) -> bool:
    """Start the helper of a folder now, unless it answers already, for two processes that need it soon; say whether there is one."""
    place = place_of(home)
    return place is not None and (greet(place) is not None or start_helper(place))


def await_helper(place: HelperPlace) -> dict[str, str] | None:
    """Return what a helper that is being started answers to a greeting, or None if it ends. Takes 10 s at most."""
    deadline_s = time.monotonic() + _AWAITED_S
    while (left_s := deadline_s - time.monotonic()) > 0 and _is_held(place.lock):
        # It may be answering others, or still begin.
        if place.socket.exists() and (greeted := greet(place, within_s=left_s)) is not None:
            return greeted
        time.sleep(_LOOK_EVERY_S)
    return None


def is_started_here(place: HelperPlace) -> bool:
    """Whether this process has started the helper of a folder, and it has not ended."""
    return any(started == place and process.poll() is None for started, process in _STARTED)


def _is_held(lock: Path) -> bool:
    try:
        with locked(lock, timeout_s=0):
            return False
    except OSError:
        return True


def _new_log(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb")


#: Python would warn of a child that nobody has waited for.
_STARTED: list[tuple[HelperPlace, subprocess.Popen[bytes]]] = []


def helpers() -> list[HomeHelper]:
    """Return this user's helpers that run, of all folders and builds, the oldest first."""
    runtime = runtime_folder()
    if runtime is None:
        return []
    found = [helper for path in runtime.glob("*.json") if (helper := _read(path)) is not None and helper.is_alive]
    return sorted(found, key=lambda helper: helper.since_s)


def log_of(helper: HomeHelper) -> Path | None:
    """Where the log of a helper is."""
    runtime = runtime_folder()
    return None if runtime is None else runtime / f"{helper.key}.log"


def end_helpers() -> list[HomeHelper]:
    """End this user's helpers, and return those that ran. What they are answering is answered first, if it takes no longer than 2 s."""
    ran = helpers()
    for helper in ran:
        _send(helper, signal.SIGTERM)
    for helper in ran:
        if not _gone_within(helper, _TERMINATE_S):
            _send(helper, signal.SIGKILL)
            _gone_within(helper, _KILL_S)
    # A process is gone a moment before the last of its threads, which still holds the lock.
    sweep(within_s=_KILL_S)
    return ran


def sweep(*, within_s: float = 0.0) -> None:
    """Remove the files of helpers that have ended, or end `within_s`."""
    runtime = runtime_folder()
    for lock in [] if runtime is None else runtime.glob("*.lock"):
        with suppress(OSError), locked(lock, timeout_s=within_s):
            for end in (".socket", ".json", ".log", ".log.1", ".lock"):
                lock.with_suffix(end).unlink(missing_ok=True)


def _read(path: Path) -> HomeHelper | None:
    """Read a record; None if there is none, or not a whole one of this release."""
    try:
        found = HomeHelper(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    has_types = isinstance(found.pid, int) and all(
        isinstance(each, str) for each in (found.started_at, found.home, found.version)
    )
    return found if has_types and found.key == path.stem and isinstance(found.since_s, int | float) else None


def _send(helper: HomeHelper, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if helper.is_alive:
                os.kill(helper.pid, number)
            return
        # The descriptor always stands for one process, even if another one gets the number between look and signal.
        descriptor = os.pidfd_open(helper.pid)
        try:
            if helper.is_alive:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _gone_within(helper: HomeHelper, seconds: float) -> bool:
    deadline_s = time.monotonic() + seconds
    while helper.is_alive:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True
