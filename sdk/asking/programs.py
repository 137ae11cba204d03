"""The engine program of the worker: how it is started, and when it is ready.

Its configuration goes to its standard input. What it prints goes to a file, since whoever started it may be gone before it is
ready, and its log has no prompts and no answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdk.errors import InvalidBase, InvalidInput, TimedOut, Unavailable
from sdk.file_locks import locked
from sdk.version import VERSION
from sdk.worker_program import child_environment, missing_libraries, program_command, program_environment

_MODULE = "workers.serving"
#: What the program needs that the SDK alone doesn't have.
_LIBRARIES = ("torch", "transformers", "peft", "starlette", "uvicorn")
#: Variables by which a user says what the program computes on.
_COMPUTING = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_BLOCKTIME")
#: A socket's whole path has at most 104 bytes, on Linux 108.
_MOST_PATH_BYTES = 100
_LOOK_EVERY_S = 0.02
#: Importing libraries and reading a base takes minutes from a cold disk.
_TIMEOUT_S, _BYTES_PER_S = 600.0, 20_000_000
_OUTPUT, _LOG, _SOCKET = "printed", "log", "socket"
#: A file that the program has locked as long as it lives, and before that whoever has begun it: numbers of processes mean nothing in
#: another container that shares the folder.
_HELD = "held"
_LOG_TAIL_BYTES = 600


@dataclass(frozen=True)
class EngineBase:
    """A base as an engine program holds it. Programs with equal ones are interchangeable."""

    #: Its id in the registry, for messages.
    id: str
    fingerprint: str
    folder: str
    size_bytes: int
    #: None: as trained, and float32 on a CPU.
    dtype: str | None
    #: The recipe of a quantised base, as a JSON object; None: it is not quantised.
    quantization: dict[str, Any] | None

    @property
    def key(self) -> str:
        """What programs that hold it like this have in common. One of another release would run another release's code, and one of
        another host that shares the cache has a socket there.
        """
        what = [self.fingerprint, self.folder, self.dtype, self.quantization, VERSION, socket.gethostname()]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))


class BegunProgram:
    """A program that hasn't been told yet what it is to hold, and imports its libraries meanwhile. It ends if this process does."""

    def __init__(self, folder: Path, *, stays: bool) -> None:
        """Start it with its files in a folder. Once it is told, it `stays` after this process, or not.

        Raises Unavailable if a library is missing.
        """
        require_engine_libraries()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = program_environment(*_COMPUTING) if stays else child_environment(*_COMPUTING)
        with ExitStack() as held:
            (folder / _HELD).unlink(missing_ok=True)
            lock = held.enter_context(locked(folder / _HELD))
            with _private(folder / _OUTPUT) as output, _private(folder / _LOG) as log:
                self.child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    program_command(_MODULE),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=log,
                    start_new_session=True,
                    env=environment,
                    pass_fds=(lock,),
                )
            #: If the program ends before it is told, its folder stays this process's.
            self._held = held.pop_all()

    def move(self, folder: Path) -> None:
        """Have its files in another folder on the same disk, and remove its own."""
        if folder != self.folder:
            # Its own is anybody's to remove once the lock has left it.
            for name in (_OUTPUT, _LOG, _HELD):
                (self.folder / name).replace(folder / name)
            shutil.rmtree(self.folder, ignore_errors=True)

    def tell(self, configuration: dict[str, Any]) -> None:
        """Tell it what it is to hold."""
        assert self.child.stdin is not None
        try:
            with self.child.stdin as stdin:
                stdin.write(json.dumps(configuration).encode() + b"\n")
        except BrokenPipeError:
            # It has ended already; waiting for it says why.
            pass
        self._held.close()

    def end(self) -> None:
        """End it untold, and remove its folder."""
        assert self.child.stdin is not None
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._held.close()


class EngineProgram:
    """A program that this process has started. Its files are in a folder that only its owner can read."""

    def __init__(
        self, base: EngineBase, folder: Path, *, idle_s: float | None, begun: BegunProgram | None = None
    ) -> None:
        """Start it, or tell one that has begun; `ready` waits. It ends after `idle_s` without a question, or with this process if
        that is None.

        Raises Unavailable if a library is missing.
        """
        self.base, self.folder = base, folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own_folder = None
        if len(os.fsencode(folder / _SOCKET)) > _MOST_PATH_BYTES:
            self._own_folder = tempfile.TemporaryDirectory(prefix="adapterctl-", dir=short_temporary())
        self.socket = str((Path(self._own_folder.name) if self._own_folder else folder) / _SOCKET)
        Path(self.socket).unlink(missing_ok=True)
        configuration = {
            "base": base.folder,
            "fingerprint": base.fingerprint,
            "dtype": base.dtype,
            "quantization": base.quantization,
            "socket": self.socket,
            "idle_s": idle_s,
        }
        begun = begun or BegunProgram(folder, stays=idle_s is not None)
        begun.move(folder)
        self._child = begun.child
        begun.tell(configuration)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    def ready(self) -> None:
        """Return once it answers. Raises what `wait_until_ready` does."""
        wait_until_ready(self.folder, self.base, lambda: self._child.poll() is None)

    def detach(self) -> None:
        """Let it go on after this process, and without this object."""
        _DETACHED.append(self)

    def end(self) -> None:
        """End it, and remove the folder of its socket."""
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._own_folder is not None:
            self._own_folder.cleanup()


#: Programs that go on. Python would warn of a child that nobody has waited for.
_DETACHED: list[EngineProgram] = []


def missing_engine_libraries() -> list[str]:
    """Return those of the engine program's libraries that are not installed."""
    return missing_libraries(_LIBRARIES)


def require_engine_libraries() -> None:
    """Raise Unavailable, with their names, if libraries of the engine program are not installed."""
    if missing := missing_engine_libraries():
        raise Unavailable(
            f"asking a version needs {', '.join(missing)}, which this Python lacks; run: pip install 'adapterctl[local]'"
        )


def wait_until_ready(folder: Path, base: EngineBase, is_running: Callable[[], bool]) -> None:
    """Return once a program says that it is ready. Raises InvalidBase, InvalidInput for what it refuses, Unavailable if it ends,
    TimedOut.
    """
    timeout_s = _TIMEOUT_S + base.size_bytes / _BYTES_PER_S
    deadline_s = time.monotonic() + timeout_s
    while True:
        # Looked at first: what it printed before it ended is there by then.
        runs = is_running()
        printed = _printed(folder)
        if "ready" in printed:
            return
        if "refused" in printed:
            raise _refusal(str(printed["refused"]), str(printed.get("reason")))
        if not runs:
            _require_writable(folder)
            raise Unavailable(
                f"the engine program ended before it was ready{_tail(folder)}; see whether the worker's libraries can be "
                "loaded: pip install 'adapterctl[local]'"
            )
        if time.monotonic() > deadline_s:
            raise TimedOut(
                f"the engine program was not ready within {timeout_s:.0f} s; read {folder / _LOG}, then try again"
            )
        time.sleep(_LOOK_EVERY_S)


def _require_writable(folder: Path) -> None:
    """Raise OSError if a program could not have said anything there, as on a full disk."""
    with suppress(FileNotFoundError), (folder / _OUTPUT).open("ab") as output:
        output.write(b"\n")


def is_ready(folder: Path) -> bool:
    """Whether a program has said that it is ready."""
    return "ready" in _printed(folder)


def is_held(folder: Path) -> bool:
    """Whether a program whose files are in a folder lives, or is about to be told what it is to hold, in whatever container."""
    try:
        with locked(folder / _HELD, shared=True, timeout_s=0.0, is_made=False):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def log_of(folder: Path) -> Path:
    """Where the log of a program is."""
    return folder / _LOG


def _private(path: Path) -> Any:
    """Open a new file that only its owner can read, in place of the one before."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "wb")


def short_temporary() -> str | None:
    """Return a folder for the folders of sockets; None: the usual one."""
    return None if len(os.fsencode(tempfile.gettempdir())) < _MOST_PATH_BYTES // 2 else "/tmp"  # noqa: S108 - a new folder of our own is made in it


def _printed(folder: Path) -> dict[str, Any]:
    try:
        first, end, _ = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").partition("\n")
        found = json.loads(first) if end else None
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tail(folder: Path) -> str:
    """Return the end of the log in brackets; empty if there is none."""
    try:
        lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_BYTES:].split("\n")
    except FileNotFoundError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" ({last[:300]})" if last else ""


def _refusal(sentence: str, reason: str) -> Exception:
    said = sentence[:1].lower() + sentence[1:].rstrip(".")
    if reason == "base":
        return InvalidBase(said, param="base")
    if reason == "oom":
        return Unavailable(said)
    return InvalidInput(said)
