"""A child process: started, given its order, listened to, and ended with everything that it started.

Whether any process of its group is alive is asked of the system, and the group is killed for certain.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import psutil

from sdk.lora.planning.kernels import MOST_KERNELS
from workers.child.output import Output
from workers.node.shutdown import LOOK_S
from workers.secret_variables import is_secret

if TYPE_CHECKING:
    from workers.child.protocol import News
    from workers.lease.stop_signal import StopReason

_GROUP_LOOK_S = 0.02
_COMPLAIN_EVERY_S = 10.0
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)

_log = logging.getLogger(__name__)


def is_group_alive(group: int) -> bool:
    """Whether a process of the group lives. A zombie does not count."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # If this worker is process 1 of a container, nobody waits for orphans, and they stay as zombies.
    return any(_lives_in(group, pid) for pid in psutil.pids())


def _lives_in(group: int, pid: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() not in _ENDED
    except (ProcessLookupError, PermissionError, psutil.Error):
        # It has just ended, or is another user's on a system that does not tell.
        return False


def end_group(group: int) -> None:
    """Kill every process of the group, again and again, until none is left."""
    complain_at = time.monotonic() + _COMPLAIN_EVERY_S
    while is_group_alive(group):
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(_GROUP_LOOK_S)
        if time.monotonic() >= complain_at:
            complain_at = time.monotonic() + _COMPLAIN_EVERY_S
            _log.warning("processes of the group %s were killed but are still there; they hang in the kernel", group)


LOG_FILE = "child.log"
PROGRAM = ("-P", "-m", "workers.child.main")
#: Tells the child its worker's process id; the child exits if its parent is another.
PARENT_VARIABLE = "ADAPTER_WORKER_PID"
#: Linux ends a child with the thread that started it, so one thread that lasts as long as this process starts them all.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
#: How long pipes are read after all their writers are gone, in seconds.
_DRAIN_S = 5.0

#: Settings for libraries, unless already set. Nothing is compiled here: if torch's compiler were enabled, importing
#: bitsandbytes would load all of it, a quarter of a child's start time. oneDNN would cache 1,024 kernels, one for each
#: shape of a product in 16 bits: with rows of many lengths they take 0.6 GB. OpenMP's threads would wait for each other
#: in a loop 300,000 times, on a busy machine for one that doesn't run: a merge with measuring took 17.6 s of the processor, and 7.7 s
#: with 10,000 times. numpy's products are those of a merge, which has threads of its own.
LIBRARIES = {
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",
    "GOMP_SPINCOUNT": "10000",
    "OPENBLAS_NUM_THREADS": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(MOST_KERNELS),
    # Memory in larger pages, if the system has them: each is made in one go.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class Listener(Protocol):
    """The receiver of a child's reports."""

    def news(self, news: News) -> None:
        """Take progress, or a checkpoint that it wrote."""

    def line(self, text: str) -> None:
        """Take a line of its standard error."""


class Watch(Protocol):
    """Decides whether a child should be stopped."""

    def reason(self) -> StopReason | None:
        """Return why it must stop, or None."""

    def may_finish(self, asked_s: float) -> bool:
        """Whether a child that was told to stop this long ago may still stop in order."""


@dataclass(frozen=True)
class Ending:
    """How a child ended. No process that it started is left running."""

    #: The exit status, negative for a signal.
    status: int
    #: Why it was told to stop, if it was.
    stop_reason: StopReason | None


class Child:
    """One child, with a session of its own. It ends with this process, not with the thread that makes it."""

    def __init__(self, folder: Path | None = None, *, program: Sequence[str] = PROGRAM) -> None:
        """Start it on the order in `folder`; without one it gets ready and waits for `give`."""
        command = [sys.executable, *program, *([] if folder is None else [str(folder)])]
        self._process = _starter.submit(
            _start, command, subprocess.PIPE if folder is None else subprocess.DEVNULL
        ).result()
        assert self._process.stderr is not None
        self._output = Output(self._process.stderr)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone already."""
        return self._process.poll() is not None

    @property
    def last_words(self) -> str:
        """The last lines of its standard error."""
        return self._output.last_words

    def give(self, folder: Path) -> bool:
        """Give a waiting child the order in `folder`; return whether it could take it."""
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stdin:
                stdin.write(json.dumps(str(folder)).encode() + b"\n")
        except OSError:
            return False
        # One that has ended well by now had taken the order: it would be carried out twice.
        return self._process.poll() in (None, 0)

    def run(self, folder: Path, listener: Listener, watch: Watch) -> Ending:
        """Listen to it until it and all processes that it started are gone; stop it if `watch` wants that."""
        with (folder / LOG_FILE).open("ab") as log:
            self._output.attach(log, listener.line)
            # The reader of a stream closes it.
            stream, self._process.stdout = self._process.stdout, None
            reader = threading.Thread(target=_read, args=(stream, listener.news), name="news", daemon=True)
            reader.start()
            try:
                reason = self._supervise(watch)
            finally:
                self.end()
                reader.join(_DRAIN_S)
                self._output.finish(_DRAIN_S)
        return Ending(self._process.returncode, reason)

    def end(self) -> None:
        """Kill it and all processes that it started; return when they are gone."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        end_group(self.pid)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _supervise(self, watch: Watch) -> StopReason | None:
        """Wait for its end, or until it has to be killed; return why it was told to stop."""
        reason: StopReason | None = None
        asked_at = 0.0
        while True:
            try:
                self._process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                pass
            else:
                return reason
            if reason is None:
                reason, asked_at = watch.reason(), time.monotonic()
                if reason is not None and watch.may_finish(0.0):
                    # Only the child itself: the processes that it started are needed for its last step.
                    self._process.terminate()
            if reason is not None and not watch.may_finish(time.monotonic() - asked_at):
                return reason


def _start(command: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=_environment(),
    )


def _read(stream: IO[bytes], on_news: Callable[[News], None]) -> None:
    # A runner starts its first child before it imports this: both import at the same time.
    from pydantic import ValidationError

    from workers.child.protocol import News

    with stream:
        for line in stream:
            try:
                news = News.model_validate_json(line)
            except ValidationError:
                # A line that was cut when the child was killed.
                continue
            on_news(news)


def _environment() -> dict[str, str]:
    # It needs no network, so it gets no credentials, and can't leak any.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not is_secret(name, value) and not name.startswith(("REGISTRY_", "AWS_", "CELERY_"))
    }
    return {**LIBRARIES, **kept, PARENT_VARIABLE: str(os.getpid())}


class WarmChild:
    """Keeps at most one waiting child. Without `warm` there is none but the `first`, and each order starts its own child."""

    def __init__(self, *, warm: bool, program: Sequence[str] = PROGRAM, first: Child | None = None) -> None:
        self._warm = warm
        self._program = program
        self._child = self._first = first

    def prepare(self) -> None:
        """Start the next one, but only while no job runs: it would take memory and time from the job."""
        if not self._warm or (self._child is not None and not self._child.has_ended):
            return
        self.end()
        try:
            self._child = Child(program=self._program)
        except OSError as error:
            _log.warning("no warm child could be started (%s); the next job starts cold", error.strerror)

    def skip_first(self) -> None:
        """End a first child that has not been used: the next order needs none of what it imports, and wouldn't wait for that."""
        if self._child is not None and self._child is self._first:
            self.end()

    def take(self, folder: Path) -> Child:
        """Return a child at work on the order in `folder`: the warm one, or a new one if there is none."""
        child, self._child = self._child, None
        if child is not None:
            if child.give(folder):
                return child
            child.end()
            _log.warning("the warm child has ended; this job starts cold. Its last output:\n%s", child.last_words)
        return Child(folder, program=self._program)

    def end(self) -> None:
        """End the waiting child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()
