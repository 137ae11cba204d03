"""What was refused before it came to a route, or for lack of a role: counted for `/metrics`, and logged in few lines.

>>> refusals = Refusals()
>>> refusals.note("log_in", "192.0.2.7", "a token of %s was refused", "192.0.2.7")
>>> refusals.drain()
{'log_in': 1}
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, get_args

from starlette.responses import JSONResponse

from registry.errors import RegistryError

#: Why something was refused; the label `why` of the metric.
RefusalKind = Literal[
    "forbidden", "log_in", "malformed", "misdirected", "not_taken", "too_large", "too_many", "too_slow"
]
REFUSAL_KINDS: tuple[str, ...] = get_args(RefusalKind)

#: At most this many lines are written for each reason in this many seconds, and only one about the same address or
#: token.
_WINDOW_S, _LINES = 5.0, 10

_log = logging.getLogger(__name__)


@dataclass
class _Window:
    """What was logged in the current window."""

    began: float
    about: set[str] = field(default_factory=set)
    untold: int = 0


class Refusals:
    """The counts of one process. However often somebody is refused, neither the log nor its disk fills up."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._counted: Counter[str] = Counter()
        self._windows: dict[str, _Window] = {}

    def note(self, why: RefusalKind, about: str, message: str, *args: object) -> None:
        """Count a refusal, and log it unless enough was logged a moment ago about its kind, or about the same address
        or token.
        """
        now = self._clock()
        with self._lock:
            self._counted[why] += 1
            window = self._windows.get(why)
            untold = 0
            if window is None or now - window.began >= _WINDOW_S:
                untold = 0 if window is None else window.untold
                window = self._windows[why] = _Window(now)
            if about in window.about or len(window.about) >= _LINES:
                window.untold += 1
                return
            window.about.add(about)
        if untold:
            _log.warning("%s more refusals of the kind %s were not logged one by one", untold, why)
        _log.warning(message, *args)

    def drain(self) -> dict[str, int]:
        """What was counted since the last time, by reason."""
        with self._lock:
            counted = dict(self._counted)
            self._counted.clear()
        return counted

    def restore(self, counted: Mapping[str, int]) -> None:
        """Take back what was drained but could not be stored."""
        with self._lock:
            self._counted.update(counted)


#: This process's: connections are refused before any application is called.
REFUSALS = Refusals()


def refused(error: RegistryError) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse(error.reply().model_dump(), status_code=error.status, headers=error.headers)
