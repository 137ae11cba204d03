"""Watching jobs: a live bar for each on a terminal, plain lines elsewhere. Ctrl-C detaches and never cancels."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import click

from sdk.cli.support.hangup import hang_up_in_threads
from sdk.cli.support.output import human_bytes, plain, say
from sdk.config import user_path
from sdk.objects import Job, Result
from sdk.schemas.events import Event, Progress
from sdk.schemas.jobs import JobState
from sdk.submitting.job_output import follow

if TYPE_CHECKING:
    from rich.table import Table

#: The shortest time between two lines without a terminal, in seconds.
_LINE_EVERY_S = 5.0
#: A watch begins with this many of the earlier events.
_BEFORE = 50
_BAR_COLUMNS = 12
_FINAL = tuple(state.value for state in JobState if state.is_final)
#: Colours of states on a terminal.
COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


def result_of(job: Job[Result]) -> dict[str, Any]:
    """Follow a job to its end and return its result, as the registry shows it. Raises JobFailed, JobCancelled."""
    watch_all([job])
    if job.error is not None:
        raise job.error
    return job.view.result or {}


def watch_all(jobs: Sequence[Job[Result]], *, again: str | None = None) -> None:
    """Follow jobs to their end; the caller decides what their ends mean.

    Ctrl-C leaves them running, says how to come back (by the command `again`, if that is not `jobs watch`), and exits with 130.
    """
    try:
        screen: _Screen = (_Live if sys.stderr.isatty() else _Lines)(jobs)
        try:
            for job, event in follow(jobs, note=say, last=_BEFORE):
                if event is None:
                    screen.looked(job)
                else:
                    screen.happened(job, event)
        finally:
            screen.close()
    except KeyboardInterrupt:
        # The terminal shows ^C at the start of the line.
        click.echo(err=True)
        ids = " ".join(job.id for job in jobs if not job.view.state.is_final)
        going = f"job {ids} keeps running" if " " not in ids else "the jobs keep running"
        back = f"Watch again with: adapterctl jobs watch {ids}" if again is None else f"Go on with: {again}"
        say(f"detached; {going}. {back}")
        sys.exit(130)


def describe(progress: Progress) -> str:
    """One line about a job's progress, without its bar."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_s is not None:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.lr is not None:
        parts.append(f"lr {progress.lr:.2g}")
    if progress.memory_bytes is not None:
        parts.append(human_bytes(progress.memory_bytes))
    if progress.message:
        parts.append(plain(progress.message))
    return " · ".join(parts)


def count_of(progress: Progress) -> str:
    """How far the phase is: "3/10 steps", "1.2 MB/9.0 MB", or nothing."""
    if progress.step is None:
        return ""
    if progress.unit == "bytes":
        total = "" if progress.total is None else f"/{human_bytes(progress.total)}"
        return f"{human_bytes(progress.step)}{total}"
    return f"{progress.step}/{progress.total or '?'} {progress.unit}"


def left_of(progress: Progress) -> str:
    """How long it will take: "12 s left", "5 min left", "2 h 05 min left", or nothing."""
    if progress.eta_s is None:
        return ""
    if progress.eta_s < 100:
        return f"{progress.eta_s:.0f} s left"
    hours, minutes = divmod(round(progress.eta_s / 60), 60)
    return f"{hours} h {minutes:02} min left" if hours else f"{minutes} min left"


def standing_of(progress: Progress) -> str:
    """Everything except the phase: "3/10 steps · 12 s left · loss 1.235"."""
    return " · ".join(part for part in (count_of(progress), left_of(progress), describe(progress)) if part)


def told(event: Event) -> str:
    """An event in words: "running: attempt 1 on gpu-7", "train · 3/10 steps", or a line of the log as it is."""
    if event.kind == "state":
        return ": ".join(part for part in (event.state, event.message) if part)
    if event.progress is not None:
        return " · ".join(part for part in (event.progress.phase, standing_of(event.progress)) if part)
    return event.message or ""


def say_no_worker(waits: str | None) -> None:
    """Warn that nobody can run what was just submitted, if the registry said why."""
    if waits is not None:
        say(f"warning: no worker can run it now: {plain(waits)}")


def say_rows(request: Mapping[str, Any], **given: Any) -> None:
    """Say which registered dataset was used for each text that isn't a file, from the request's own field, such as `data`."""
    if isinstance(given.get("data"), (list, dict)):
        # Several datasets, or a list of one.
        several = list(given.pop("data"))
        sources = request.get("sources") or [request]
        for text, source in zip(several, sources, strict=True):
            _say_dataset("data", text, source.get("data"), source.get("data_name"))
    for field, text in given.items():
        _say_dataset(field, text, request.get(field), request.get(f"{field}_name"))


def _say_dataset(field: str, text: Any, digest: Any, name: Any) -> None:
    if isinstance(text, str) and isinstance(digest, str) and not os.path.isfile(user_path(text)):  # noqa: PTH113
        say(f"{field} is the registered dataset {plain(str(name or digest[:12]))}")


class _Screen(Protocol):
    """A display of a watch."""

    def happened(self, job: Job[Result], event: Event) -> None:
        """Show an event."""

    def looked(self, job: Job[Result]) -> None:
        """Show what the registry says about a job that has had no new events."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class _Lines:
    """A line for each event that deserves one."""

    def __init__(self, jobs: Sequence[Job[Result]]) -> None:
        self._named = len(jobs) > 1
        #: Job → the phase that was reported last, and when; why it waits, and when.
        self._phase: dict[str, tuple[str, float]] = {}
        self._waits: dict[str, tuple[str, float]] = {}

    def happened(self, job: Job[Result], event: Event) -> None:
        """Write a line, but not too often for progress within one phase; lines of logs are for `jobs logs`."""
        now = time.monotonic()
        if event.progress is not None:
            phase, at = self._phase.get(job.id, ("", now))
            if event.progress.phase != phase or now - at >= _LINE_EVERY_S:
                self._phase[job.id] = (event.progress.phase, now)
                self._write(job, told(event))
        elif event.kind == "state":
            self._write(job, told(event))

    def looked(self, job: Job[Result]) -> None:
        """Say why a job waits, if that has changed."""
        now = time.monotonic()
        before, at = self._waits.get(job.id, ("", now - _LINE_EVERY_S))
        if job.view.waits not in (None, before) and now - at >= _LINE_EVERY_S:
            self._waits[job.id] = (job.view.waits or "", now)
            self._write(job, f"waits: {job.view.waits}")

    def close(self) -> None:
        """There is nothing to undo."""

    def _write(self, job: Job[Result], text: str) -> None:
        say(f"{job.id} {text}" if self._named else text)


class _Live:
    """A row for each job, redrawn in place."""

    def __init__(self, jobs: Sequence[Job[Result]]) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        # A thread of rich draws too.
        hang_up_in_threads()
        self._jobs = jobs
        self._spinner = Spinner("dots")
        #: Job → its phase or state, and the text next to it.
        self._said = {job.id: (job.view.state.value, job.view.waits or "") for job in jobs}
        self._progress: dict[str, Progress | None] = {}
        self._live = Live(
            get_renderable=self._table, console=Console(stderr=True), transient=True, refresh_per_second=8
        )
        self._live.start()

    def happened(self, job: Job[Result], event: Event) -> None:
        """Draw it; events come in bursts, and each is drawn, so that a short phase is seen at all."""
        if event.progress is not None:
            self._said[job.id] = (event.progress.phase, standing_of(event.progress))
            self._progress[job.id] = event.progress
        elif event.kind == "state":
            self._said[job.id] = (event.state or "", event.message or "")
            self._progress[job.id] = None
        self._live.refresh()

    def looked(self, job: Job[Result]) -> None:
        """Draw why it waits."""
        if job.view.waits is not None:
            self._said[job.id] = (job.view.state.value, job.view.waits)

    def close(self) -> None:
        """Remove the rows."""
        self._live.stop()

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(3 if len(self._jobs) == 1 else 4):
            table.add_column(no_wrap=True)
        table.add_column()
        for job in self._jobs:
            phase, said = self._said[job.id]
            progress = self._progress.get(job.id)
            total = None if progress is None else progress.total
            bar = ProgressBar(
                total, 0 if progress is None else progress.step or 0, width=_BAR_COLUMNS, pulse=total is None
            )
            final = phase in _FINAL
            # A job's text may contain brackets that are not markup; long text is cut, so that no line wraps.
            row = [
                Text(" ") if final else self._spinner,
                Text(f"{plain(phase):<8}", style=COLOURS.get(phase, "")),
                Text(" " * _BAR_COLUMNS) if final or phase == "queued" else bar,
                Text(plain(said), no_wrap=True, overflow="ellipsis"),
            ]
            table.add_row(*([] if len(self._jobs) == 1 else [Text(job.id)]), *row)
        return table
