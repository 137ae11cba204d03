"""Training watched on a real terminal: live progress, Ctrl-C that detaches, a terminal that goes away, cancel."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import processes, tiny
from support.command_line import CommandLine
from support.waiting import wait_until

from sdk.cli.support.hangup import lost_terminal

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

COLUMNS = 80
SHORT = ["--max-steps", "2", "--batch-size", "2", "--grad-accum", "1", "--max-length", "64"]
LONG = ["--max-steps", "100000", *SHORT[2:]]
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")


class Terminal:
    """A program on a pseudo-terminal of 80 columns, whose session it leads."""

    def __init__(self, *args: str, env: dict[str, str], prepare: Callable[[], None] | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._process = subprocess.Popen(
            [str(processes.BIN / "adapterctl"), *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=prepare or take_terminal,
            env={**env, "TERM": "xterm-256color"},
        )
        os.close(slave)
        self._read: list[bytes] = []
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:
                return
            if not data:
                return
            self._read.append(data)

    @property
    def raw(self) -> str:
        """Everything that was written, with what moves the cursor."""
        return b"".join(self._read).decode(errors="replace")

    @property
    def text(self) -> str:
        """Everything that was written, to be read."""
        return _ESCAPES.sub("", self.raw)

    def wait_for(self, pattern: str, timeout_s: float = 240) -> re.Match[str]:
        """Wait until it has written something that matches."""
        found = wait_until(lambda: re.search(pattern, self.text), lambda: f"no {pattern!r} in:\n{self.text}", timeout_s)
        assert found is not None
        return found

    def press(self, key: str) -> None:
        """Press a key."""
        os.write(self._master, key.encode())

    def hang_up(self) -> None:
        """Take the terminal away, as closing a window or losing a connection does."""
        os.close(self._master)

    def status(self, timeout_s: float = 240) -> int:
        """Wait for its end; return its exit status."""
        status = self._process.wait(timeout_s)
        self._reader.join(2)
        return status

    def end(self) -> None:
        """End it, where the test has not."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Home(CommandLine):
    """An embedded registry, the tiny base and rows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.base = tiny.save_llama(folder / "tiny-llama")
        self.rows = tiny.write_rows(folder / "rows.jsonl")
        self.terminals: list[Terminal] = []

    def terminal(self, *args: str, prepare: Callable[[], None] | None = None) -> Terminal:
        """Run a command on a terminal; `prepare` is run in its place just before, and else makes that its own."""
        self.terminals.append(Terminal(*args, env=self.env, prepare=prepare))
        return self.terminals[-1]

    def train(self, name: str, *options: str) -> list[str]:
        """A training's command line."""
        return ["train", name, "--base", str(self.base), "--data", str(self.rows), *options]

    def children(self) -> list[int]:
        """The processes of this home that train."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                command = (process / "cmdline").read_bytes()
                # One that waited for its order is told of the folder later, and goes there.
                at = os.readlink(process / "cwd")
            except (OSError, NotADirectoryError):
                continue
            if b"workers.child.main" in command and at.startswith(str(self.folder)):
                found.append(int(process.name))
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One home for all."""
    home = Home(tmp_path_factory.mktemp("terminal"))
    yield home
    for terminal in home.terminals:
        terminal.end()


def test_a_preview_is_coloured_where_somebody_looks(home: Home) -> None:
    terminal = home.terminal("data", "preview", str(home.rows), "--base", str(home.base), "--row", "1")
    assert terminal.status() == 0
    assert "\x1b[30m\x1b[42mone<|end|>\x1b[0m" in terminal.raw
    assert "⟦" not in terminal.raw
    assert "count one (0): one<|end|>" in terminal.text


def test_ctrl_c_detaches_and_the_watch_comes_back(home: Home) -> None:
    terminal = home.terminal(*home.train("detached", *SHORT))
    job = terminal.wait_for(r"job (\w+) trains detached")[1]
    # Live: a line that is drawn again and again in its place.
    terminal.wait_for("load")
    assert "\x1b[2K" in terminal.raw
    terminal.press("\x03")
    assert terminal.status(20) == 130
    assert f"detached; job {job} keeps running. Watch again with: adapterctl jobs watch {job}" in terminal.text
    assert "Traceback" not in terminal.text
    assert home.json("jobs", "show", job)["cancel_requested"] is False

    again = home.terminal("jobs", "watch", job)
    assert again.status() == 0
    assert f"job {job} succeeded" in again.text
    assert re.search(r"train .* [12]/2 steps · .*loss \d+\.\d{3} · [\d,]+ tokens/s", again.text), again.text
    # Nothing wraps: a line that did would not be drawn over.
    for line in re.split(r"[\r\n]+", again.text):
        assert len(line) <= COLUMNS, line
    # The cursor is shown again.
    assert again.raw.rindex("\x1b[?25h") > again.raw.rindex("\x1b[?25l")
    assert [version["ref"] for version in home.json("versions", "detached")] == ["detached@v1"]


def test_a_terminal_that_goes_away_loses_nothing(home: Home) -> None:
    terminal = home.terminal(*home.train("hung-up", *SHORT))
    job = terminal.wait_for(r"job (\w+) trains hung-up")[1]
    terminal.wait_for("load")
    terminal.hang_up()
    assert terminal.status(20) == -signal.SIGHUP
    assert home.run("jobs", "wait", job, "--timeout", "90").returncode == 0
    assert home.json("show", "hung-up")["job"] == {"id": job, "attempt": 1}


@pytest.mark.parametrize("how", ["no signal", "a blocked signal"])
def test_a_terminal_on_which_a_write_fails_first_ends_it_as_the_signal_does(home: Home, how: str) -> None:
    def prepare() -> None:
        if how == "a blocked signal":
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    name = how.replace(" ", "-")
    terminal = home.terminal(*home.train(name, *SHORT), prepare=prepare)
    job = terminal.wait_for(rf"job (\w+) trains {name}")[1]
    terminal.wait_for("load")
    terminal.hang_up()
    # Live rows are drawn on terminals alone, so the first write that fails is of the version's ref.
    assert terminal.status() == -signal.SIGHUP
    assert home.json("show", name)["job"] == {"id": job, "attempt": 1}


def test_cancel_ends_the_job_and_all_that_it_started(home: Home) -> None:
    terminal = home.terminal(*home.train("cancelled", *LONG))
    job = terminal.wait_for(r"job (\w+) trains cancelled")[1]
    terminal.wait_for(r"train .*\d+/100000")
    assert len(home.children()) == 1
    assert home.run("jobs", "cancel", job).returncode == 0
    # The watcher sees it, and its end is a failure with a reason.
    assert terminal.status(30) == 6
    assert f"job {job} was cancelled" in terminal.text
    shown = home.json("jobs", "show", job)
    assert (shown["state"], shown["reason"], shown["result"]) == ("cancelled", "cancelled", None)
    assert home.children() == []
    assert home.run("jobs", "wait", job).returncode == 6
    assert home.run("show", "cancelled").returncode == 3
    assert list((home.folder / "cache/jobs").iterdir()) == []


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
