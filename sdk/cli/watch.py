"""Watching a job: a live bar on a terminal, plain lines elsewhere. Ctrl-C detaches and never cancels."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from sdk.cli.output import human_bytes, plain, say
from sdk.errors import TimedOut
from sdk.objects import Job
from sdk.schemas.events import Event, Progress

#: Without a terminal a line is written at most so often, in seconds.
_LINE_EVERY_S = 5.0


def watch(job: Job, *, timeout_s: float | None = None) -> Job:
    """Follow a job to its end and return it; the caller decides what its end means.

    Ctrl-C leaves the job running, says how to come back, and exits with 130. Raises TimedOut.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        show, close = _live() if sys.stderr.isatty() else _plain()
        try:
            _follow(job, show, deadline)
        finally:
            close()
    except KeyboardInterrupt:
        # The terminal shows ^C at the start of the line.
        click.echo(err=True)
        say(f"detached; job {job.id} goes on. Come back with: adapterctl jobs watch {job.id}")
        sys.exit(130)
    return job


def _follow(job: Job, show: Callable[[Event], None], deadline: float | None) -> None:
    after = 0
    while True:
        left = 10.0 if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"job {job.id} has not ended in time; it goes on: adapterctl jobs watch {job.id}")
        found = job.poll_events(after=after, wait_s=min(left, 10.0))
        for event in found:
            after = event.seq
            show(event)
        if not found and job.state.is_final:
            return


def describe(progress: Progress) -> str:
    """One line of a job's progress, without its bar."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_s is not None:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
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


def _plain() -> tuple[Callable[[Event], None], Callable[[], None]]:
    last_phase, last_at = "", 0.0

    def show(event: Event) -> None:
        nonlocal last_phase, last_at
        if event.kind == "state":
            say(f"{event.state}{f': {event.message}' if event.message else ''}")
        elif event.progress is not None:
            progress = event.progress
            if progress.phase == last_phase and time.monotonic() - last_at < _LINE_EVERY_S:
                return
            last_phase, last_at = progress.phase, time.monotonic()
            parts = (count_of(progress), left_of(progress), describe(progress))
            say(" · ".join([progress.phase, *(part for part in parts if part)]))

    return show, lambda: None


def _live() -> tuple[Callable[[Event], None], Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    # What a job says may hold brackets, which are no markup; what has no room is cut, so that no line wraps.
    cut = Column(no_wrap=True, overflow="ellipsis")
    bar = Bar(
        SpinnerColumn(),
        TextColumn("{task.description:<8}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[said]}", markup=False, table_column=cut),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    phase, task = "", bar.add_task("queued", total=None, said="waits for a worker")

    def show(event: Event) -> None:
        nonlocal phase, task
        if event.kind == "state":
            bar.update(task, description=plain(event.state or ""), said=plain(event.message or ""))
        elif event.progress is not None:
            progress = event.progress
            if progress.phase != phase:
                bar.remove_task(task)
                phase = progress.phase
                task = bar.add_task(plain(phase), total=progress.total, said="")
            parts = (count_of(progress), left_of(progress), describe(progress))
            said = " · ".join(part for part in parts if part)
            bar.update(task, completed=progress.step or 0, total=progress.total, said=said)
        # News comes in bursts; each is drawn, so that a short phase is seen at all.
        bar.refresh()

    return show, bar.stop
