"""A command whose terminal is gone when it writes: it ends as by SIGHUP and says nothing anywhere."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import processes

from sdk.cli.support.hangup import lost_terminal


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def ignore() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def on_a_terminal_that_is_gone(
    *args: str, stdout_only: bool = False, prepare: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a session without a terminal of its own, so that no signal comes."""
    master, slave = pty.openpty()
    os.close(master)
    try:
        return subprocess.run(
            [processes.BIN / "adapterctl", *args],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.PIPE if stdout_only else slave,
            start_new_session=True,
            preexec_fn=prepare,
            env=processes.environment(),
            check=False,
        )
    finally:
        os.close(slave)


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("completion", "bash")], ids=lambda args: args[0])
def test_data_that_can_not_be_written_ends_a_command_without_a_word(args: tuple[str, ...]) -> None:
    assert on_a_terminal_that_is_gone(*args).returncode == -signal.SIGHUP
    done = on_a_terminal_that_is_gone(*args, stdout_only=True)
    assert (done.returncode, done.stderr) == (-signal.SIGHUP, b"")


@pytest.mark.parametrize("prepare", [block, ignore])
def test_so_it_does_where_the_signal_would_not(prepare: Callable[[], None]) -> None:
    assert on_a_terminal_that_is_gone("--version", prepare=prepare).returncode == -signal.SIGHUP


def test_so_does_an_error_that_can_not_be_told() -> None:
    assert on_a_terminal_that_is_gone("nosuch").returncode == -signal.SIGHUP
    # Where it can, its own code says more.
    done = on_a_terminal_that_is_gone("nosuch", stdout_only=True)
    assert done.returncode == 2
    assert b"there is no command" in done.stderr


def test_a_thread_that_draws_ends_the_command(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    program = (
        "import signal, threading, time\n"
        # Whoever runs the tests may have them ignore it.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from sdk.cli.support.hangup import hang_up_in_threads\n"
        "hang_up_in_threads()\n"
        "def draw():\n"
        "    while True:\n"
        "        print('.', flush=True)\n"
        "        time.sleep(0.01)\n"
        "threading.Thread(target=draw, daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    command = [processes.BIN / "python", "-c", program]
    with (tmp_path / "stderr").open("wb") as said:
        process = subprocess.Popen(command, stdout=slave, stderr=said, start_new_session=True)
    os.close(slave)
    assert os.read(master, 1) == b"."
    os.close(master)
    assert process.wait(20) == -signal.SIGHUP
    assert (tmp_path / "stderr").read_bytes() == b""


def test_a_disk_that_fails_is_no_terminal_that_is_gone() -> None:
    assert not lost_terminal(OSError(errno.EIO, "the disk"))
