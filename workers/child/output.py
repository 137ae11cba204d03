"""A child's standard error: kept in a file, passed on as clean lines, its last lines remembered."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

#: Lines passed on per second, and how many at once: a traceback passes as a whole.
_LINES_PER_S = 20.0
_BURST = 100
_MAX_CHARACTERS = 500
_READ_BYTES = 65_536
#: The largest size of the file, in bytes.
_FILE_BYTES = 16 * 1024 * 1024
_REMEMBERED = 40

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
#: Control characters of both sets, line separators, and characters that change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")


def clean(line: bytes) -> str:
    """Return a line that is safe to print: the last state of a line that was redrawn, cut if it is long.

    >>> clean(b"\\x1b[31mred\\x1b[0m and\\tblue\\r\\n")
    'red and blue'
    """
    text = line.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
    text = _CONTROLS.sub("", _ESCAPES.sub("", text).replace("\t", " ")).rstrip()
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


class RateLimiter:
    """A token bucket: lets this many lines a second through, and reports how many it did not."""

    def __init__(self, lines_per_s: float = _LINES_PER_S, burst: int = _BURST) -> None:
        self._lines_per_s = lines_per_s
        self._burst = burst
        self._free = float(burst)
        self._at = time.monotonic()
        self._left_out = 0

    def lines(self, line: str) -> list[str]:
        """Return the lines to pass on when `line` arrives."""
        now = time.monotonic()
        self._free = min(self._burst, self._free + (now - self._at) * self._lines_per_s)
        self._at = now
        if self._free < 1:
            self._left_out += 1
            return []
        self._free -= 1
        return [*self.rest(), line]

    def rest(self) -> list[str]:
        """Return the notice about lines that were left out, if any were."""
        left_out, self._left_out = self._left_out, 0
        return [f"({left_out} more lines arrived at once and are left out)"] if left_out else []


class Output:
    """Reads a stream to its end, so that its writer never waits. Anything read before `attach` is written then."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._guard = threading.Lock()
        self._rate_limiter = RateLimiter()
        self._early: deque[bytes] = deque(maxlen=_BURST)
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self._file: IO[bytes] | None = None
        self._written_bytes = 0
        self._on_line: Callable[[str], None] | None = None
        self._thread = threading.Thread(target=self._listen, name="output", daemon=True)
        self._thread.start()

    def attach(self, file: IO[bytes], on_line: Callable[[str], None]) -> None:
        """Write to `file`, and call `on_line` with lines, leaving some out if too many come at once."""
        with self._guard:
            self._file, self._on_line = file, on_line
            while self._early:
                self._take(self._early.popleft())

    def finish(self, within_s: float) -> None:
        """Wait for the end of the stream, which is closed then; another process may have kept it open."""
        self._thread.join(within_s)
        with self._guard:
            if self._on_line is not None:
                for line in self._rate_limiter.rest():
                    self._on_line(line)
            self._file = self._on_line = None

    @property
    def last_words(self) -> str:
        """The last lines."""
        with self._guard:
            return "\n".join(self._last)

    def _listen(self) -> None:
        with self._stream:
            while line := self._stream.readline(_READ_BYTES):
                with self._guard:
                    if self._on_line is None:
                        self._early.append(line)
                    else:
                        self._take(line)

    def _take(self, line: bytes) -> None:
        self._write(line)
        text = clean(line)
        if not text or self._on_line is None:
            return
        self._last.append(text)
        for passed in self._rate_limiter.lines(text):
            self._on_line(passed)

    def _write(self, line: bytes) -> None:
        if self._file is None or self._written_bytes >= _FILE_BYTES:
            return
        try:
            self._file.write(line)
            self._file.flush()
            self._written_bytes += len(line)
        except OSError:
            # A full disk: the lines still go where they are read.
            self._file = None
