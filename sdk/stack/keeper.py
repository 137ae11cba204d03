"""A thread that keeps one part running: starts it once what it needs is ready, watches it, and starts it again."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sdk.stack.errors import ServerError
from sdk.stack.local_process import LocalProcess

#: Looking whether the part still runs costs next to nothing; asking whether it answers costs a little.
_LOOK_EVERY_S = 0.2
_ASK_EVERY_S = 5.0
_ASK_SILENT_EVERY_S = 0.5
#: Not counting what prepares the start, such as making a new database.
_LONGEST_START_S = 45.0
#: A part that runs but does not answer for this long, while all that it needs is ready, is ended and started again.
_LONGEST_SILENCE_S = 60.0
#: After this long without a failure, the earlier failures of a part are forgotten.
_RECOVERED_AFTER_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

_log = logging.getLogger(__name__)


class PartState(StrEnum):
    """What a part is doing."""

    #: What it needs is not ready.
    WAITING = "waiting"
    #: Its process was started, or found running, and does not answer yet.
    STARTING = "starting"
    #: It answers.
    READY = "ready"
    #: Its process runs but no longer answers.
    SILENT = "silent"
    #: It ended by itself, or did not start; the next try comes at once after one failure, later after a pause.
    FAILING = "failing"
    #: It was ended on request, or never started.
    STOPPED = "stopped"
    #: Its process runs, but no supervisor looks after it.
    UNWATCHED = "unwatched"


@dataclass(frozen=True)
class Report:
    """What a keeper says about its part."""

    part: str
    state: PartState
    #: The process that this is about, once it runs.
    pid: int | None = None
    #: How often it was started again since the supervisor started.
    restarts: int = 0
    #: How often it has recently ended by itself or failed to start.
    failures: int = 0
    #: What went wrong last, unless that was long ago; or what it waits for.
    message: str = ""


class Keeper(threading.Thread):
    """Keeps one part running until `end` is called; then it ends the part and itself."""

    def __init__(
        self, process: LocalProcess, *, needs: Sequence[Keeper] = (), then: Callable[[], None] = lambda: None
    ) -> None:
        """`then` is called once, when the part first answers, before it counts as ready."""
        super().__init__(name=process.name, daemon=True)
        #: How the part is; read by other threads.
        self.report = Report(process.name, PartState.WAITING)
        self._process = process
        self._needs = needs
        self._then: Callable[[], None] | None = then
        self._leave = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the part answers."""
        return self.report.state is PartState.READY

    def end(self) -> None:
        """Ask for the part to be ended; `join` waits until it is."""
        self._leave.set()

    def run(self) -> None:
        """Keep the part running."""
        while not self._leave.is_set():
            try:
                self._wait_for_needs()
                self._start()
                self._watch()
            except (ServerError, OSError, subprocess.SubprocessError) as error:
                self._fail(error.line if isinstance(error, ServerError) else f"{type(error).__name__}: {error}")
        try:
            self._process.stop()
            self._become(PartState.STOPPED)
        except ServerError as error:
            _log.error("%s", error.line)

    def _wait_for_needs(self) -> None:
        while not self._leave.is_set():
            missing = [need.name for need in self._needs if not need.is_ready]
            if not missing:
                return
            self._become(PartState.WAITING, message=f"waiting for {', '.join(missing)}")
            self._leave.wait(_LOOK_EVERY_S / 2)

    def _start(self) -> None:
        if self._leave.is_set():
            return
        self._become(PartState.STARTING)
        self._process.start(_LONGEST_START_S, wanted=lambda: not self._leave.is_set())
        if self._then is not None and not self._leave.is_set():
            self._then()
            self._then = None

    def _watch(self) -> None:
        """Return once the part is to end. Raises ServerError if it ended by itself, or had to be ended."""
        ready_at = heard_at = asked_at = time.monotonic()
        while not self._leave.is_set():
            now = time.monotonic()
            if self._process.pid is None:
                self._process.stop()
                raise ServerError(f"{self.name} {self._process.last_end or 'ended'}")
            if now - ready_at > _RECOVERED_AFTER_S and self.report.failures:
                self.report = replace(self.report, failures=0, message="")
            if now - asked_at >= (_ASK_EVERY_S if self.is_ready else _ASK_SILENT_EVERY_S) or now == ready_at:
                asked_at = now
                if self._process.answers():
                    heard_at = now
                    self._become(PartState.READY)
                else:
                    self._become(PartState.SILENT)
            if not all(need.is_ready for need in self._needs):
                heard_at = now
            if now - heard_at > _LONGEST_SILENCE_S:
                self._process.stop()
                raise ServerError(f"{self.name} did not answer for {_LONGEST_SILENCE_S:.0f} s and was ended")
            self._leave.wait(_LOOK_EVERY_S)

    def _fail(self, what: str) -> None:
        """Count a failure, and return when it is time for the next try: after the first failure, at once."""
        if self._leave.is_set():
            return
        failures = self.report.failures + 1
        pause_s = 0.0 if failures == 1 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures - 2, 10))
        message = what if failures == 1 else f"{what}; {failures} times in a row; trying again in {pause_s:.1f} s"
        _log.warning("%s", message)
        self.report = Report(self.name, PartState.FAILING, None, self.report.restarts + 1, failures, message)
        self._leave.wait(pause_s)

    def _become(self, state: PartState, *, message: str | None = None) -> None:
        """Note a state; without a `message`, what went wrong last stays in the report."""
        if message is None:
            message = self.report.message if self.report.failures else ""
        now = replace(self.report, state=state, pid=self._process.pid, message=message)
        if now == self.report:
            return
        self.report = now
        _log.info("%s %s", self.name, message if state is PartState.WAITING else f"is {state.value}")
