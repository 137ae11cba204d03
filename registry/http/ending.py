"""Whether the server has been told to stop: what only waits for something to happen ends then, instead of being waited for.

>>> async def stopping() -> bool:
...     begin_to_end()
...     return is_ending()
>>> import asyncio
>>> asyncio.run(stopping())
True
"""

from __future__ import annotations

from anyio.lowlevel import RunVar

_ending: RunVar[bool] = RunVar("registry_ending")


def begin_to_end() -> None:
    """Say that the server of the running event loop takes no more requests."""
    _ending.set(True)


def is_ending() -> bool:
    """Return whether the server of the running event loop has been told to stop."""
    return _ending.get(False)
