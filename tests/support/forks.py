"""Our commands as forks of a process that has imported what they need: each is a real process, without two seconds of
imports.

    done = ForkServer.of_this_process().run(["adapterctl", "list"], env=env, cwd=None, timeout_s=60)

Arguments, environment, working directory, standard streams, signals and the exit status are those of a new process. A
fork can't have what the interpreter reads when it starts, so `can_fork` refuses environments that change that.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn, Self

from sdk.file_locks import locked

#: `python` takes `-c`, a program and its arguments.
PROGRAMS = {
    "adapterctl": "sdk.cli:main",
    "adapter-registry": "registry.ops.entry:main",
    "python": "support.forks:run_text",
    "child": "support.child_forks:run",
    "module": "support.torch_forks:run_module",
    "call": "support.torch_forks:run_call",
}
#: What a command with a registry in a folder imports. Nothing here may read the environment when it is imported.
_PRELOADED = (
    "registry.app.embedded",
    "registry.ops.cli",
    "sdk.client",
    "alembic.command",
    "model_signing.signing",
    "model_signing.verifying",
    "safetensors.numpy",
    "rich.progress",
    "rich.table",
)
_PRELOADED_PACKAGES = ("sdk.cli", "sdk.api", "sdk.pulling", "sdk.pushing", "sdk.schemas")
#: The interpreter, or the loader, reads variables with these prefixes before any of our code runs.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "OMP_", "OPENBLAS_", "MKL_")
_BIN = Path(sys.executable).parent
#: Longer than the imports take on a busy machine.
_PATIENCE_S = 300.0


def can_fork(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a fork of this process's server would be like a new process: a server with several processes forks and
    starts them itself.
    """
    if command[0] not in PROGRAMS or "--workers" in command or not hasattr(os, "fork"):
        return False
    names = {name for name in (*env, *os.environ) if name.startswith(READ_AT_START)}
    return all(env.get(name) == os.environ.get(name) for name in names)


@dataclass(frozen=True)
class Run:
    """A run of tests, of which this process may be one of several."""

    folder: Path
    #: The process that began the run, and outlives the others.
    pid: int


class ForkServer:
    """The process that forks: one for all processes of a run, with which it ends. Without a run it is this process's own.

    One that is started with an environment of its own runs what the interpreter reads there, such as a `sitecustomize`,
    and is only for commands with that environment.
    """

    #: Set before tests begin.
    run_of_tests: ClassVar[Run | None] = None
    _used: ClassVar[dict[str, ForkServer]] = {}
    _lock = threading.Lock()

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def of_this_process(cls) -> ForkServer:
        """Return the one for commands of this process's environment, which is started on first use."""
        return cls.of_run("commands", None, preloads="support.forks:preload")

    @classmethod
    def of_run(cls, name: str, environment: Mapping[str, str] | None, *, preloads: str) -> ForkServer:
        """Return the one of this name; the process of the run that needs it first starts it."""
        with cls._lock:
            if name not in cls._used:
                if cls.run_of_tests is None:
                    folder = tempfile.mkdtemp(prefix="forks-")
                    atexit.register(shutil.rmtree, folder, ignore_errors=True)
                    cls.run_of_tests = Run(Path(folder), os.getpid())
                run = cls.run_of_tests
                place = run.folder / f"forks-{name}"
                place.mkdir(mode=0o711, exist_ok=True)
                with locked(place / "start.lock", timeout_s=_PATIENCE_S):
                    if not (place / "socket").exists():
                        _start(place / "socket", environment, preloads, run.pid)
                cls._used[name] = cls(str(place / "socket"))
            return cls._used[name]

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        timeout_s: float,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `subprocess.run` does; `stdin` None is this process's. Raises TimeoutExpired."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if stdin is not None:
                given.write(stdin.encode())
                given.seek(0)
            streams = [0 if stdin is None else given.fileno(), out.fileno(), err.fileno()]
            with self._begin(command, env, cwd, streams) as fork:
                try:
                    status = fork.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    fork.kill()
                    raise
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode())
        return subprocess.CompletedProcess([str(_BIN / command[0]), *command[1:]], status, *said)

    def start(self, command: Sequence[str], *, env: Mapping[str, str], log: BinaryIO) -> Fork:
        """Start a command and let it run; its output goes to `log`."""
        return self._begin(command, env, None, [0, log.fileno(), log.fileno()])

    def _begin(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None, streams: list[int]) -> Fork:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.address)
        request = {"command": list(command), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        socket.send_fds(connection, [b"0"], streams)
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        return Fork(command, connection)


class Fork:
    """A running command; the block around it releases what is held for it here, but doesn't end the command."""

    def __init__(self, command: Sequence[str], connection: socket.socket) -> None:
        self._command, self._connection = command, connection
        self._answers = connection.makefile("r")
        self.pid = int(self._answers.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._connection.close()

    def wait(self, timeout_s: float) -> int:
        """Wait for its end, which is reported once; return its exit status. Raises TimeoutExpired."""
        self._connection.settimeout(timeout_s)
        try:
            return int(self._answers.readline())
        except TimeoutError:
            raise subprocess.TimeoutExpired(list(self._command), timeout_s) from None

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _start(address: Path, environment: Mapping[str, str] | None, preloads: str, run: int) -> None:
    """Start the process that forks, and wait until it listens."""
    subprocess.run(
        [sys.executable, "-m", "support.forks", str(address), preloads, str(run)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
        env=environment,
        start_new_session=True,
        check=True,
    )


def main() -> None:
    """Fork on request until the process that began the run is gone; in a fork, run the command. Whoever started this one waits for
    the imports only: what listens then is a fork, which belongs to nobody.
    """
    sys.path.pop(0)
    address, preloads, run = sys.argv[1:]
    _find(preloads)()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(64)
        if os.fork() > 0:
            os._exit(0)
        # The processes that attend to commands are not waited for here.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        # It may be gone already.
        with contextlib.suppress(ProcessLookupError):
            _serve(listener, os.pidfd_open(int(run)))


def _serve(listener: socket.socket, run: int) -> None:
    watched: list[socket.socket | int] = [listener, run]
    while True:
        readable, _, _ = select.select(watched, [], [])
        if run in readable:
            return
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                listener.close()
                os.close(run)
                _attend(connection)


def preload() -> None:
    """Import what commands import."""
    for name in _PRELOADED:
        importlib.import_module(name)
    for name in _PRELOADED_PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    assert not {"torch", "huggingface_hub"} & set(sys.modules), "these read the environment when they are imported"
    # So pages that nobody changes stay shared.
    gc.freeze()


def _attend(connection: socket.socket) -> None:
    """Fork once more, report the process id, wait for its end, and report how it ended; the fork itself runs the
    command.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as asked:
        request: dict[str, Any] = json.loads(asked.read())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())
    _end_with(connection, pid)
    _, status = os.waitpid(pid, 0)
    # The caller lost patience and is gone.
    with contextlib.suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _end_with(connection: socket.socket, pid: int) -> None:
    """Wait for the end of a fork; it is killed if its caller has gone."""
    ended = os.pidfd_open(pid)
    looks = select.poll()
    looks.register(ended, select.POLLIN)
    looks.register(connection, 0)
    if any(descriptor != ended for descriptor, _ in looks.poll()):
        os.kill(pid, signal.SIGKILL)
    os.close(ended)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Run the command in this process, and end it as a new process would end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *arguments = request["command"]
    sys.argv = [str(_BIN / name), *arguments]
    for number, stream_name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, stream_name)
        opened = open(  # noqa: SIM115 - for the life of the process
            number,
            "r" if number == 0 else "w",
            encoding=before.encoding,
            errors=before.errors,
            buffering=1 if number == 2 else -1,
            closefd=False,
        )
        setattr(sys, stream_name, opened)
        setattr(sys, f"__{stream_name}__", opened)
    try:
        with _with_programs(os.environ.get("TORCH_FORKS") or None):
            code = _find(PROGRAMS[name])()
    except SystemExit as left:
        code = left.code
    leave(code)


def _with_programs(where: str | None) -> contextlib.AbstractContextManager[None]:
    """Have programs that a command starts be forks as well, if its environment says where these are made."""
    if where is None:
        return contextlib.nullcontext()
    from support.torch_forks import programs_as_forks

    return programs_as_forks(where)


def _find(function: str) -> Callable[[], Any]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def leave(code: Any) -> NoReturn:
    """End like the interpreter, but without freeing everything that was imported: that takes longer than most
    commands.
    """
    if code is None or isinstance(code, int):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        gc.collect()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
    sys.exit(code)


def run_text() -> None:
    """Run the program on the command line, as `python -c` does."""
    _, option, text, *arguments = sys.argv
    assert option == "-c"
    sys.argv = [option, *arguments]
    exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
