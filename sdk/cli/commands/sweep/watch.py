"""Watching a sweep: a live table on a terminal, plain lines elsewhere. Ctrl-C detaches and never cancels."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Protocol

import click

from sdk.cli.commands.watch import COLOURS
from sdk.cli.support.hangup import hang_up_in_threads
from sdk.cli.support.output import human_duration, plain, print_json, say
from sdk.cli.support.sweep_pages import (
    document_of,
    failure_of,
    picture_lines,
    said_of,
    setting_said,
    setting_table,
)
from sdk.nouns.sweeps import winner_ref
from sdk.schemas.jobs import JobState
from sdk.schemas.sweeps import HELD_OUT_LOSS, SweepView
from sdk.submitting.sweep_watch import MemberStanding, SweepProgress, follow_sweep

if TYPE_CHECKING:
    from rich.console import Group

    from sdk.client import Client

#: The shortest time between two lines about all members without a terminal, in seconds.
_LINE_EVERY_S = 10.0
_BAR_COLUMNS = 12
#: Lines of a terminal that the table leaves free.
_FREE = 4


def watch_sweep(client: Client, view: SweepView) -> SweepView:
    """Follow a sweep to its end. Ctrl-C leaves it going, says how to come back, and exits with 130."""
    try:
        screen: _Screen = _Live() if sys.stderr.isatty() else _Lines()
        try:
            for progress in follow_sweep(client.transport, view.id, note=say):
                screen.looked(progress)
                view = progress.view
        finally:
            screen.close()
    except KeyboardInterrupt:
        # The terminal shows ^C at the start of the line.
        click.echo(err=True)
        say(f"detached; sweep {view.id} goes on. Watch again with: adapterctl sweep show {view.id} --watch")
        sys.exit(130)
    return view


def print_result(view: SweepView, style: str) -> None:
    """Print how a sweep ended: the table for people, and the winner's ref as data. Raises JobFailed, JobCancelled."""
    if style == "json":
        print_json(document_of(view))
    else:
        if style == "table" and view.members:
            for line in [setting_table(view), "", *said_of(view), *picture_lines(view, sys.stderr)]:
                click.echo(line, err=True)
        if (ref := winner_ref(view)) is not None:
            click.echo(ref)
    if (error := failure_of(view)) is not None:
        raise error


def summary_of(progress: SweepProgress) -> str:
    """One line about all members: "3/10 members · best 1.36 (rank 4) · 12 steps/s · 5 min left"."""
    view = progress.view
    best, rate, left = progress.best, progress.steps_per_s, progress.left_s
    # A score of an evaluation is only known once all members have been trained.
    called = "best" if view.request.choose == HELD_OUT_LOSS else "lowest held-out loss"
    parts = [
        f"{progress.ended}/{view.most_members or '?'} members",
        "" if best is None else f"{called} {best.loss:.4g} ({setting_said(best.member)})",
        "" if rate is None else f"{rate:.2g} steps/s",
        "" if left is None else f"{human_duration(left)} left",
        view.state.value if view.state.value != "running" else "",
        view.message or "",
    ]
    return plain(" · ".join(part for part in parts if part))


def state_of(standing: MemberStanding) -> str:
    """The state of a member, or its outcome once it has one."""
    return standing.member.outcome or standing.member.state


class _Screen(Protocol):
    """A display of a watch."""

    def looked(self, progress: SweepProgress) -> None:
        """Show how far the sweep is."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class _Lines:
    """A line for each member that begins or ends, and one about all now and then."""

    def __init__(self) -> None:
        self._states: dict[int, str] = {}
        self._summary, self._at = "", -_LINE_EVERY_S

    def looked(self, progress: SweepProgress) -> None:
        """Write what has changed."""
        for one in progress.members:
            state = state_of(one)
            if self._states.get(one.member.number) != state and state != JobState.QUEUED:
                self._states[one.member.number] = state
                say(_line(one, state))
        now, summary = time.monotonic(), summary_of(progress)
        if now - self._at >= _LINE_EVERY_S and summary != self._summary:
            self._summary, self._at = summary, now
            say(summary)

    def close(self) -> None:
        """There is nothing to undo."""


def _line(one: MemberStanding, state: str) -> str:
    member = one.member
    loss = "" if one.loss is None else f", loss {one.loss:.4g}"
    best = "" if member.best_step is None else f" at step {member.best_step} of {member.steps}"
    why = f": {member.reason}" if member.reason else ""
    return plain(f"member {member.number} ({setting_said(member)}) {state}{loss}{best}{why}")


class _Live:
    """A row for each member that there is room for, and one line about all, redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # A thread of rich draws too.
        hang_up_in_threads()
        self._progress: SweepProgress | None = None
        console = Console(stderr=True)
        self._live = Live(get_renderable=self._drawn, console=console, transient=True, refresh_per_second=4)
        self._live.start()

    def looked(self, progress: SweepProgress) -> None:
        """Draw it."""
        self._progress = progress
        self._live.refresh()

    def close(self) -> None:
        """Remove the rows."""
        self._live.stop()

    def _drawn(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._progress is None:
            return Group()
        table = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(6):
            table.add_column(no_wrap=True)
        for one in shown_members(self._progress, shutil.get_terminal_size().lines - _FREE):
            state = state_of(one)
            at_work = one.member.state == JobState.RUNNING
            bar = ProgressBar(one.total, one.step or 0, width=_BAR_COLUMNS, pulse=one.total is None)
            table.add_row(
                Text(str(one.member.number)),
                Text(plain(setting_said(one.member)), overflow="ellipsis"),
                Text(f"{state:<9}", style=COLOURS.get(one.member.state, "")),
                bar if at_work else Text(" " * _BAR_COLUMNS),
                Text(_steps(one)),
                Text("" if one.loss is None else f"loss {one.loss:.4g}"),
            )
        return Group(table, Text(summary_of(self._progress), no_wrap=True, overflow="ellipsis"))


def _steps(one: MemberStanding) -> str:
    if one.step is None:
        return one.phase
    return f"{one.step}/{one.total or '?'}"


def shown_members(progress: SweepProgress, most: int) -> list[MemberStanding]:
    """Return the members that there is room for, in their order: those at work before the last that ended, and these before
    those that wait.
    """
    final = [one for one in progress.members if JobState(one.member.state).is_final]
    running = [one for one in progress.members if one.member.state == JobState.RUNNING]
    waiting = [one for one in progress.members if one.member.state == JobState.QUEUED]
    chosen = [*running, *reversed(final), *waiting][: max(1, most)]
    return sorted(chosen, key=lambda one: one.member.number)
