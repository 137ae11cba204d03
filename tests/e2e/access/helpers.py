"""What these tests share. Aliases and people at the command line, against a real server: what is printed, what is said,
how it exits.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.command_line import CommandLine
from support.registries import World

from sdk.client import Client

NAME = "team/code-review"


COLUMNS = 80


class Desk(CommandLine):
    """A terminal's environment before a registry, with an admin's token."""

    def __init__(self, world: World, folder: Path, token: str, client: Client) -> None:
        super().__init__(folder, url=world.url, token=token, XDG_CONFIG_HOME=str(folder / "config"))
        self.world, self.token, self.client = world, token, client

    @property
    def profile(self) -> Path:
        """What `login` writes."""
        return self.folder / "config/adapterctl/profile.json"

    def run(self, *args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command that has nothing to read, unless it is given."""
        return super().run(*args, stdin=stdin or "", **env)

    def ok(self, *args: str, **env: str) -> str:
        """Run a command that works; return its output without the last line feed. Tables fit 80 columns; what a pipe gets doesn't
        have to.
        """
        shown = super().ok(*args, **env)
        if "table" in args:
            assert all(len(line) <= COLUMNS for line in shown.splitlines()), shown
        return shown

    def refused(self, status: int, *args: str, **env: str) -> str:
        """Run a command that fails with `status`; return the one line that it said."""
        (line,) = super().refused(status, *args, **env).splitlines()
        return line
