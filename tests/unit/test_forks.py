"""A command that is forked does what a new process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import child_forks, processes
from support.forks import ForkServer, can_fork
from support.workplace import wait_until

from workers.child.process import PARENT_VARIABLE
from workers.child.protocol import ORDER_FILE


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return processes.environment(
        ADAPTERCTL_URL=f"local:{tmp_path / 'home'}", ADAPTERCTL_CACHE=str(tmp_path / "cache"), HOME=str(tmp_path)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("adapterctl", "show", "a/none"), ("adapterctl", "list", "--format", "json"), ("adapter-registry", "doctor")],
)
def test_it_says_and_returns_the_same(command: tuple[str, ...], env: dict[str, str], tmp_path: Path) -> None:
    assert can_fork(command, env)
    forked = ForkServer.of_this_process().run(command, env=env, cwd=tmp_path, timeout_s=300)
    new = processes.finished(str(processes.BIN / command[0]), *command[1:], env=env, cwd=tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (new.returncode, new.stdout, new.stderr)


def test_a_program_s_text_is_run_as_by_python(env: dict[str, str], tmp_path: Path) -> None:
    text = "import os, sys; print(__name__, sys.argv, os.getcwd(), sys.stdin.read()); sys.exit(3)"
    said = processes.run("python", "-c", text, "a b", env=env, cwd=tmp_path, stdin="given")
    assert (said.returncode, said.stdout, said.stderr) == (3, f"__main__ ['-c', 'a b'] {tmp_path} given\n", "")


@pytest.mark.parametrize(
    "end",
    ["sys.exit(3)", "sys.exit()", "sys.exit(-1)", "sys.exit('why')", "1 / 0", "os.kill(os.getpid(), 9)", "pass"],
)
def test_it_ends_as_by_python(end: str, env: dict[str, str], tmp_path: Path) -> None:
    text = f"""
import atexit, os, sys, tempfile, threading, time
class Loop:
    def __del__(self): os.write(1, b"collected\\n")
loop = Loop(); loop.loop = loop; del loop
kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
sys.stdout.write("begun\\n")
sys.stdout.flush()
{end}"""
    forked = processes.run("python", "-c", text, env=env)
    new = processes.finished(sys.executable, "-c", text, env=env)
    assert (forked.returncode, sorted(forked.stdout.split())) == (new.returncode, sorted(new.stdout.split()))
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]
    assert (list(tmp_path.glob("tmp*")) == []) == ("kill" not in end)


def test_what_the_interpreter_reads_at_its_start_takes_a_new_process(env: dict[str, str]) -> None:
    command = ("adapterctl", "list")
    assert not can_fork(command, {**env, "PYTHONPATH": "/elsewhere"})
    assert not can_fork(command, {**env, "LC_ALL": "C.UTF-8.other"})
    assert not can_fork(("adapter-worker", "start"), env)


def test_a_server_of_several_processes_starts_them_itself(env: dict[str, str]) -> None:
    assert can_fork(("adapter-registry", "serve", "--port", "1"), env)
    assert not can_fork(("adapter-registry", "serve", "--port", "1", "--workers", "2"), env)


def test_one_that_takes_too_long_is_killed(env: dict[str, str]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        ForkServer.of_this_process().run(("adapterctl", "list"), env=env, cwd=None, timeout_s=0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_stands_for_a_worker_s_child_ends_with_its_fork_and_the_fork_with_it(
    number: signal.Signals, env: dict[str, str], tmp_path: Path
) -> None:
    # It waits for its order.
    os.mkfifo(tmp_path / ORDER_FILE)
    command = [
        sys.executable,
        "-I",
        "-S",
        child_forks.LAUNCHER,
        ForkServer.of_this_process().address,
        "child",
        str(tmp_path),
    ]

    def forked() -> bool:
        return any(_folder_of(process) == tmp_path for process in Path("/proc").iterdir() if process.name.isdigit())

    with subprocess.Popen(command, env={**env, PARENT_VARIABLE: "1"}) as stands:
        wait_until(forked, lambda: "nothing was forked", 60)
        stands.send_signal(number)
        assert stands.wait(60) == -number
    wait_until(lambda: not forked(), lambda: "it goes on", 60)


def _folder_of(process: Path) -> Path | None:
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None
