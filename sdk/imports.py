"""How modules are imported that define a great deal: without a look for garbage among what they define.

with nothing_collected():
    import fastapi
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_collected(*, ever: bool = False) -> Iterator[None]:
    """Let nothing be looked through for garbage while the block imports; with `ever`, nor later what is there by then.

    What libraries define are objects by the hundred thousand that stay as long as the process: looking through them takes
    a fifth of the imports. A trainer or a merge that asks for its memory back would look through them again, a quarter of
    a second each time; a process that isn't ours may have garbage by then, which is to be found.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ever:
            gc.freeze()
        if collects:
            gc.enable()
