"""What these tests share. Aliases and people at the command line, against a real server: what is printed, what is said,
how it exits.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import processes
from support.registries import World

from sdk.client import Client

NAME = "team/code-review"


COLUMNS = 80


@dataclass
class Desk:
    """A terminal's environment before a registry, with an admin's token."""

    world: World
    folder: Path
    token: str
    client: Client

    @property
    def env(self) -> dict[str, str]:
        """What the commands see."""
        return processes.environment(
            ADAPTERCTL_URL=self.world.url,
            ADAPTERCTL_TOKEN=self.token,
            ADAPTERCTL_CACHE=str(self.folder / "cache"),
            HOME=str(self.folder),
            XDG_CONFIG_HOME=str(self.folder / "config"),
        )

    @property
    def profile(self) -> Path:
        """What `login` writes."""
        return self.folder / "config/adapterctl/profile.json"

    def run(self, *args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal."""
        done = processes.run("adapterctl", *args, env={**self.env, **env}, stdin=stdin or "", timeout_s=60)
        assert "Traceback" not in done.stderr
        return done

    def ok(self, *args: str, **env: str) -> str:
        """Run a command that works; return its output without the last line feed. Tables fit 80 columns."""
        done = self.run(*args, **env)
        assert done.returncode == 0, done.stderr
        if "json" not in args:
            assert all(len(line) <= COLUMNS for line in done.stdout.splitlines()), done.stdout
        return done.stdout.removesuffix("\n")

    def json(self, *args: str) -> Any:
        """Run a command that works; return the one document that it printed."""
        return json.loads(self.ok(*args, "--format", "json"))

    def refused(self, status: int, *args: str, **env: str) -> str:
        """Run a command that fails with `status`; return the one line that it said."""
        done = self.run(*args, **env)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        (line,) = done.stderr.splitlines()
        return line

    def at_a_terminal(self, *args: str, typed: str, asks: str, **env: str) -> tuple[int, str]:
        """Run a command on a terminal, type an answer to its question; return its status and all that was shown."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [str(processes.BIN / "adapterctl"), *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**self.env, **env, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(slave)
        shown = b""
        answered = False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if not answered and asks.encode() in shown:
                os.write(master, typed.encode() + b"\n")
                answered = True
        status = process.wait(20)
        os.close(master)
        return status, shown.decode()
