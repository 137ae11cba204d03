"""How modules are imported that define a great deal: without a look for garbage among what they define.

with nothing_collected():
    import fastapi
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_is_program = False


def begin_program() -> None:
    """Say that this process is a program of ours: what there is once something was imported is no garbage."""
    global _is_program
    _is_program = True


@contextmanager
def nothing_collected(*, ever: bool = False) -> Iterator[None]:
    """Let nothing be looked through for garbage while the block imports; with `ever`, nor later what is there by then.

    In a program of ours it is so for ever in any case.

    What libraries define are objects by the hundred thousand that stay as long as the process: looking through them takes
    a fifth of the imports. A trainer or a merge that asks for its memory back would look through them again, a quarter of
    a second each time; a process that isn't ours may have garbage by then, which is to be found.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ever or _is_program:
            gc.freeze()
        if collects:
            gc.enable()
