"""The most anonymous memory of this process above what its imports took: what a training needs, and no file that is mapped.

>>> with Peak() as peak:
...     held = bytearray(64 * 2**20)
>>> 60 * 2**20 < peak.bytes_above < 200 * 2**20
True
"""

from __future__ import annotations

import threading
import time

#: How often the process is looked at, in seconds.
EVERY_S = 0.02


class Peak:
    """Watches from the moment that it is entered; `bytes_above` is the most that there was above that moment."""

    def __init__(self) -> None:
        self._before = self._most = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def bytes_above(self) -> int:
        """Bytes of anonymous memory at most, above what there was at the beginning."""
        return self._most - self._before

    def __enter__(self) -> Peak:
        self._before = self._most = _anonymous_bytes()
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._most = max(self._most, _anonymous_bytes())
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._most = max(self._most, _anonymous_bytes())
            time.sleep(EVERY_S)


def _anonymous_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - read fifty times a second
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
