"""Our own programs as processes, for tests that need them whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sdk.stack.loopback import free_ports
from support.forks import Fork, ForkServer, can_fork
from support.waiting import PATIENCE_S, wait_until

BIN = Path(sys.executable).parent

#: A program that sleeps until it is ended.
SLEEP = "import time; time.sleep(600)"


def free_port() -> int:
    """Return a loopback port on which nobody listens, outside the range that the system gives out."""
    return free_ports(1)[0]


def environment(**given: str) -> dict[str, str]:
    """Return the environment of a clean user with `given` on top: none of our variables leak in.

    No command there leaves a helper. A worker there keeps no warm child: each imports torch, and hardly any job of a test would begin sooner.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        # Tests that run in parallel are given a width, which would replace each terminal's own.
        if not key.startswith(("ADAPTERCTL_", "REGISTRY_", "ADAPTER_WORKER_")) and key not in ("COLUMNS", "LINES")
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "ADAPTER_WORKER_WARM": "0", "ADAPTERCTL_HELPER": "0", **given}


def run(
    *command: str, env: Mapping[str, str], timeout_s: float = 300, cwd: Path | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of our scripts to its end and return its output; `stdin` is what it reads, None what this process reads.

    It is a fork of a process that has done its imports, if that makes no difference to the script.
    """
    if can_fork(command, env):
        return ForkServer.of_this_process().run(command, env=env, cwd=cwd, timeout_s=timeout_s, stdin=stdin)
    return finished(BIN / command[0], *command[1:], env=env, timeout_s=timeout_s, cwd=cwd, stdin=stdin)


def finished(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run any command to its end in a new process; return its output."""
    return subprocess.run(
        command, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=check
    )


@contextmanager
def running(*command: str, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our scripts during the block, and end it afterwards."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], env=dict(env), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_fork(*command: str, env: Mapping[str, str], log: Path) -> Iterator[Fork]:
    """Run one of our scripts during the block as a fork, as in `run`, and end it afterwards."""
    assert can_fork(command, env), f"{command[0]} can't be forked with this environment"
    with log.open("wb") as file:
        fork = ForkServer.of_this_process().start(command, env=env, log=file)
    with fork:
        try:
            yield fork
        finally:
            fork.terminate()
            try:
                fork.wait(20)
            except subprocess.TimeoutExpired:
                fork.kill()
                fork.wait(20)


@contextmanager
def serving(port: int, *, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes] | Fork]:
    """Serve a registry in one process during the block, and end it afterwards: a fork as in `run`, if possible."""
    command = ("adapter-registry", "serve", "--port", str(port))
    run = running_fork if can_fork(command, env) else running
    with run(*command, env=env, log=log) as process:
        yield process


def wait_until_healthy(url: str, *, log: Path, timeout_s: float = PATIENCE_S) -> None:
    """Wait for `/readyz`; show the end of the log if it does not come."""
    import httpx

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            # Not listening yet.
            return False

    wait_until(is_ready, lambda: f"{url} did not become ready:\n{log.read_text()[-4000:]}", timeout_s)
