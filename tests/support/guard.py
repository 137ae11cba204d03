"""Ends the servers of a test run that was killed before it could end them itself.

    with Guard() as guard:
        guard.watch(server.pid, directory)

A child process holds the reading end of a pipe. When the run ends, however it ends, the pipe closes and the child
kills what it was told to watch and removes the folders.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sdk.process_starts import process_started_at
from sdk.stack.identity import Identity


class Guard:
    """A process that outlives this one by a moment."""

    def __init__(self) -> None:
        # A new session, or the Ctrl-C that ends the run would end its guard first.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.guard"],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )

    def watch(self, pid: int | None, directory: Path) -> None:
        """Have a process ended and a folder removed when this one is gone; also the servers with pid files in there."""
        started_at = process_started_at(pid) if pid else None
        self._process.stdin.write(f"{pid or 0}\t{started_at or ''}\t{directory}\n".encode())
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Clear away what was watched, and wait until that is done."""
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Read what to watch until the writer is gone, then clear it away."""
    watched = [line.rstrip("\n").split("\t") for line in sys.stdin]
    known = [Identity(int(pid), started_at) for pid, started_at, _ in watched if started_at]
    for _, _, directory in watched:
        known += [found for path in Path(directory).rglob("*.pid") if (found := Identity.read(path))]
    for number, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        alive = [identity for identity in known if identity.send(number)]
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s and any(identity.is_alive for identity in alive):
            time.sleep(0.05)
    for _, _, directory in watched:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
