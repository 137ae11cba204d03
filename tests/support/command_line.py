"""`adapterctl` as somebody types it, with a home and a cache in a folder of their own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import processes


class CommandLine:
    """Commands before a registry: one that is embedded below the folder, unless a URL is given."""

    def __init__(
        self, folder: Path, *, url: str | None = None, token: str | None = None, cwd: Path | None = None, **env: str
    ) -> None:
        self.folder, self.cwd = folder, cwd
        self.url = url or f"local:{folder / 'home'}"
        given = env if token is None else {"ADAPTERCTL_TOKEN": token, **env}
        self.env = processes.environment(
            **{"ADAPTERCTL_URL": self.url, "ADAPTERCTL_CACHE": str(folder / "cache"), "HOME": str(folder), **given}
        )

    def run(
        self, *args: str, stdin: str | None = None, within_s: float = 180, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal. It is killed after `within_s` seconds."""
        done = processes.run(
            "adapterctl", *args, env={**self.env, **env}, cwd=self.cwd, stdin=stdin, timeout_s=within_s
        )
        assert "Traceback" not in done.stderr
        return done

    def ok(self, *args: str, **env: str) -> str:
        """Run a command that works; return its output without the last line feed."""
        done = self.run(*args, **env)
        assert done.returncode == 0, f"{args}: {done.stderr}"
        return done.stdout.removesuffix("\n")

    def json(self, *args: str, **env: str) -> Any:
        """Run a command that works; return the one document that it printed."""
        return json.loads(self.ok(*args, "--format", "json", **env))

    def refused(self, status: int, *args: str, **env: str) -> str:
        """Run a command that fails with `status`; return all that it said."""
        done = self.run(*args, **env)
        assert (done.returncode, done.stdout) == (status, ""), done.stdout + done.stderr
        return done.stderr.strip()

    def at_a_terminal(
        self,
        *args: str,
        asks: str = "",
        typed: str = "",
        columns: int = 80,
        piped: bool = False,
        within_s: float = 180,
        **env: str,
    ) -> tuple[int, str, str]:
        """Run a command on a terminal, and type an answer to its question; return its status, its data if they are `piped`,
        and all that was shown. It is killed after `within_s` seconds."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [str(processes.BIN / "adapterctl"), *args],
            stdin=slave,
            stdout=subprocess.PIPE if piped else slave,
            stderr=slave,
            env={**self.env, "TERM": "dumb", **env},
            cwd=self.cwd,
            start_new_session=True,
            text=True,
        )
        os.close(slave)
        patience = threading.Timer(within_s, process.kill)
        patience.start()
        shown, asked = b"", False
        # An error is how Linux says that nobody holds the other end any more.
        with suppress(OSError):
            while piece := os.read(master, 4096):
                shown += piece
                if asks and not asked and asks.encode() in shown:
                    os.write(master, f"{typed}\n".encode())
                    asked = True
        data, _ = process.communicate()
        patience.cancel()
        os.close(master)
        return process.returncode, data or "", shown.decode()
