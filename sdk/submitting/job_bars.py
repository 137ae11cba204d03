"""How far a job is while it is waited for: a bar in a notebook or on a terminal, lines elsewhere.

A notebook's bar is one output that is written anew, without widgets; a terminal's is drawn by rich.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sdk.formats.html_tables import page, plain, progress_bar
from sdk.notebook.jobs import words_of
from sdk.schemas.events import Progress
from sdk.schemas.jobs import JobView

#: The shortest time between two changes of a notebook's bar, and between two lines, in seconds.
_BAR_S, _LINE_S = 0.2, 5.0


@contextmanager
def shown(view: JobView, how: bool | Callable[[Progress], object] | None) -> Iterator[Callable[[Progress], object]]:
    """Within the block, what is yielded shows how far a job is; True chooses where, None shows nothing."""
    if callable(how):
        yield how
    elif not how:
        yield lambda _: None
    elif (display := _notebook()) is not None:
        yield from _in_notebook(view, display)
    elif sys.stderr is not None and sys.stderr.isatty():
        yield from _on_terminal(view)
    else:
        yield from _as_lines(view)


def _notebook() -> Any:
    """Return the module by which a notebook displays; None where no kernel runs this process."""
    # Nothing is imported for this: in a kernel it is there.
    core = sys.modules.get("IPython")
    shell = None if core is None else core.get_ipython()
    return None if getattr(shell, "kernel", None) is None else __import__("IPython.display").display


def _in_notebook(view: JobView, display: Any) -> Iterator[Callable[[Progress], object]]:
    last: list[Progress] = []
    begun_s = time.monotonic()
    handle = display.display(_bundle(view, None), raw=True, display_id=True)
    drawn_s = begun_s

    def show(progress: Progress) -> None:
        nonlocal drawn_s
        last[:] = [progress]
        if time.monotonic() - drawn_s >= _BAR_S:
            drawn_s = time.monotonic()
            handle.update(_bundle(view, progress), raw=True)

    ended = "stopped waiting"
    try:
        yield show
        ended = "ended"
    finally:
        words = f"{_name(view)}: {ended} after {time.monotonic() - begun_s:.0f} s"
        handle.update(_bundle(view, last[-1] if last else None, words=words), raw=True)


def _bundle(view: JobView, progress: Progress | None, *, words: str | None = None) -> dict[str, str]:
    text = words or f"{_name(view)}: {'waits for a worker' if progress is None else words_of(progress)}"
    share = None if progress is None or progress.step is None or not progress.total else progress.step / progress.total
    done = 1.0 if words is not None and "ended" in words else share
    return {"text/plain": plain(text), "text/html": page(progress_bar(text, done))}


def _on_terminal(view: JobView) -> Iterator[Callable[[Progress], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("waits for a worker", total=None, name=_name(view))

        def show(progress: Progress) -> None:
            bars.update(task, completed=progress.step or 0, total=progress.total, description=plain(words_of(progress)))

        yield show


def _as_lines(view: JobView) -> Iterator[Callable[[Progress], object]]:
    written_s, phase = float("-inf"), ""

    def show(progress: Progress) -> None:
        nonlocal written_s, phase
        if progress.phase == phase and time.monotonic() - written_s < _LINE_S:
            return
        written_s, phase = time.monotonic(), progress.phase
        sys.stderr.write(f"{_name(view)}: {plain(words_of(progress))}\n")

    yield show


def _name(view: JobView) -> str:
    return plain(f"{view.kind} of {view.subject}")
