"""How modules that define very many objects are imported: without garbage collection.

::

    with nothing_collected():
        import fastapi
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_is_program = False


def begin_program() -> None:
    """Say that this process is a program of ours: nothing that exists after its imports is garbage."""
    global _is_program
    _is_program = True


def is_program() -> bool:
    """Whether this process is a program of ours."""
    return _is_program


@contextmanager
def nothing_collected(*, ever: bool = False) -> Iterator[None]:
    """Turn garbage collection off while the block imports; with `ever`, later collections skip what there is then.

    In a program of ours they do so in any case.

    Libraries define hundreds of thousands of objects that live as long as the process. Searching them for garbage was
    0.27 of 2.0 s of the processor for `adapterctl list` over a folder, 0.19 of 1.8 s for the imports of a server, and
    1.4 of 5.4 s for those of a child. A trainer or a merge that collects garbage to free memory would search them again,
    for 0.3 s each time. A process that isn't ours may have real garbage by then, which must
    still be found.
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
