"""The client of a command, with a progress bar for bytes on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

import click

from sdk.cli.support.output import say
from sdk.config import shows_details
from sdk.imports import nothing_collected

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sdk.client import Client
    from sdk.home_helpers import HelperPlace
    from sdk.pulling.filling import OnTransfer
    from sdk.pulling.puller import Puller

#: Whether it was said that a stack runs here.
_STACK_SAID = "sdk.cli.stack_said"
#: Transfers below this show no bar.
_WORTH_A_BAR_BYTES = 4_000_000


@contextmanager
def open_client() -> Iterator[Client]:
    """The client of the configured registry."""
    with watched() as on_transfer, client_with(on_transfer) as client:
        yield client


@contextmanager
def expecting_job(module: str | None = None) -> Iterator[None]:
    """Have the runner of a registry in a folder get ready, while this command does so, for the job that the block submits.

    `module` is the pipeline's module whose libraries are enough for it; None: all.
    """
    from sdk import config

    home = config.load().home
    with ExitStack() as held:
        # In a new folder the first process makes the database.
        if home is not None and (home / "registry.sqlite3").exists():
            helped = False
            if config.wants_helper(by_default=True):
                from sdk.home_helpers import begin_helper

                # One process opens the folder, for this command and for the runner.
                helped = begin_helper(home)
            # Without it, the job itself starts a runner.
            with suppress(ImportError, AttributeError):
                queue = import_module("registry.queue.local").LocalQueue(home)
                held.enter_context(queue.expecting(module, helped=helped))
        yield


@contextmanager
def client_with(on_transfer: OnTransfer | None) -> Iterator[Client]:
    """The client of the configured registry, which shows transfers in an existing bar."""
    # Importing httpx would also import its command line, with a highlighter: 0.08 of 0.7 s of the processor for what a
    # command over HTTP imports.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    with nothing_collected():
        from sdk.api.transport import Transport
        from sdk.client import Client
        from sdk.config import load

    from sdk.cli.completing.seen_names import SeenNames
    from sdk.cli.support.nearest import names_suggested

    transport = Transport(load(), is_command=True)
    client = Client(on_transfer=on_transfer, transport=transport)
    _say_stack_beside()
    seen = SeenNames()
    transport.on_answer = _telling(seen.hear) if shows_details() else seen.hear
    try:
        with names_suggested(client):
            yield client
    finally:
        client.close()
        seen.keep(client.config)
        if transport.unhelped is not None:
            _start_helper_at_the_end(transport.unhelped)


def _say_stack_beside() -> None:
    """Say that a stack runs on this machine, where nothing says which registry is meant, and the default one is not the stack's."""
    from sdk import config

    meta = click.get_current_context().find_root().meta
    if meta.get(_STACK_SAID) or not config.url_is_default():
        return
    from sdk.stack.running import running_stack

    if (url := running_stack()) is not None:
        meta[_STACK_SAID] = True
        say(
            f"this reads the registry in {config.load().home}; a stack runs at {url}: use it with: adapterctl login {url}"
        )


def _start_helper_at_the_end(place: HelperPlace) -> None:
    """Start the helper of a folder once this command has printed its answer, so that the next one needn't open the folder."""

    def start() -> None:
        from sdk.home_helpers import start_helper

        sys.stdout.flush()
        start_helper(place)

    click.get_current_context().find_root().call_on_close(start)


def _telling(hear: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
    """Also say which route answered, and when."""
    began_s = time.monotonic()

    def told(path: str, body: bytes) -> None:
        say(f"{time.monotonic() - began_s:7.3f} s  {path}  {len(body):,} bytes")
        hear(path, body)

    return told


@contextmanager
def open_puller(*, offline: bool = False) -> Iterator[Puller]:
    """A puller for the configured registry, without the rest of a client unless the registry is in this process."""
    from sdk import config

    configured = config.load()
    if configured.home is not None and not offline:
        with open_client() as client:
            yield client.puller
        return
    from sdk.pulling.cache import Cache
    from sdk.pulling.http import HttpClient
    from sdk.pulling.puller import Puller
    from sdk.pulling.source import HttpSource

    http = HttpClient(configured.reach)
    with watched() as on_transfer:
        try:
            yield Puller(HttpSource(configured, http), Cache(), configured.url, http=http, on_transfer=on_transfer)
        finally:
            http.close()


@contextmanager
def watched() -> Iterator[OnTransfer | None]:
    """A callback that shows a bar for transferred bytes on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _Bars() as bars:
        yield bars.moved


class _Bars:
    """One bar at a time, created once enough bytes are to be transferred."""

    def __init__(self) -> None:
        self._doing = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def moved(self, doing: str, count: int, total: int) -> None:
        """Record that `count` bytes of `total` were transferred."""
        if total < _WORTH_A_BAR_BYTES:
            return
        if doing != self._doing or self._progress is None:
            self._close()
            self._open(doing, total)
        if self._progress is not None and self._task is not None:
            task = self._progress.tasks[0]
            if task.completed + count > (task.total or 0):
                # The next of several things: all together are what there is to do.
                self._progress.update(self._task, total=(task.total or 0) + total)
            self._progress.update(self._task, advance=count)

    def _open(self, doing: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._doing = doing
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        self._task = self._progress.add_task(doing, total=total)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = None


@contextmanager
def counting(doing: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many things of a total are done, with rate and time left, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
