"""A module of the worker, run as a separate program for work that needs libraries the SDK doesn't have.

The SDK imports nothing from the worker: the program is started by its module's name, reads the request from its
standard input, and answers with one JSON object on the last line of its standard output. It gets none of this process's
tokens, limits its own use of the machine, and ends with this process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdk.errors import TimedOut, Unavailable

if TYPE_CHECKING:
    import asyncio

#: The variables of this process that a program needs to start; it gets no others of them, such as tokens.
_ENVIRONMENT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
)
#: The variable with the id of this process, so that the program can end with it.
PARENT_VARIABLE = "ADAPTERCTL_PARENT"


def missing_libraries(names: Sequence[str]) -> list[str]:
    """Return those of the worker's libraries that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_libraries(names: Sequence[str], *, doing: str) -> None:
    """Raise Unavailable, with their names, if some of the worker's libraries are not installed.

    `doing` begins the sentence.
    """
    if missing := missing_libraries(names):
        raise Unavailable(
            f"{doing} needs {' and '.join(missing)}, which this Python lacks; run: pip install 'adapterctl[worker]'"
        )


def program_environment(*more: str) -> dict[str, str]:
    """Return the variables that a program gets of this process's: those that it needs to start, and those named."""
    return {name: os.environ[name] for name in (*_ENVIRONMENT, *more) if name in os.environ}


def program_command(module: str, *args: str) -> list[str]:
    """Return the command that runs a module in this Python."""
    # -P: nothing is imported from the current folder, which may be the very one to be read.
    return [sys.executable, "-P", "-m", module, *args]


def child_environment(*more: str) -> dict[str, str]:
    """Return the variables of a program that ends with this process."""
    return {**program_environment(*more), PARENT_VARIABLE: str(os.getpid())}


def start_program(module: str, *args: str) -> subprocess.Popen[bytes]:
    """Start a module in a session of its own, which ends with this process; what it says besides its answers goes nowhere."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        program_command(module, *args),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=child_environment(),
    )


async def start_program_beside(module: str, *, line_bytes: int) -> asyncio.subprocess.Process:
    """Start a module as `start_program` does, for an event loop that reads lines of at most so many bytes."""
    # A question at a terminal, which needs none, would take a fifth longer with it.
    import asyncio

    return await asyncio.create_subprocess_exec(
        *program_command(module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=line_bytes,
        start_new_session=True,
        env=child_environment(),
    )


def run_program(
    module: str, *args: str, asked: bytes = b"", timeout_s: float, late: str, param: str | None = None
) -> dict[str, Any] | None:
    """Run a module; return the object on its last line, or None if it failed or printed none.

    Raises TimedOut, which says `late`, after `timeout_s`. In any case, everything in its session is ended before this
    returns.
    """
    child = start_program(module, *args)
    try:
        output, _ = child.communicate(asked, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimedOut(late, param=param) from error
    finally:
        _end(child)
    return _last_line(output) if child.returncode == 0 else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole session, whatever it may have started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _last_line(output: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(output.decode().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return said if isinstance(said, dict) else None
