"""The blocks of shell and Python that pages show, how each is run, and what runs them line by line."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support import processes

ROOT = Path(__file__).resolve().parents[2]
#: Every page whose blocks a reader may follow.
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "sdk" / "examples").glob("*/README.md")),
]
_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    page: str
    language: str
    text: str
    #: The name by which another test runs it.
    name: str | None
    #: Why nothing here can run it.
    not_run: str | None

    @property
    def is_followed(self) -> bool:
        """Whether it is run where its page is followed."""
        return self.name is None and self.not_run is None


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    found = []
    for comment, language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        kind, _, value = comment.partition(": ")
        named, not_run = (value if kind == each else None for each in ("run", "not run"))
        found.append(Block(page.relative_to(ROOT).as_posix(), language, text, named, not_run))
    return found


def lines_of(text: str) -> list[str]:
    """Return the commands of a shell's block: lines that are continued, or whose quotes are open, are one."""
    commands, left = [], ""
    for line in text.splitlines():
        left = f"{left}{line.lstrip()}" if left.endswith("\\ ") else f"{left}\n{line}" if left else line
        if left.endswith("\\"):
            left += " "
            continue
        left = left.replace("\\ ", "")
        try:
            words = shlex.split(left, comments=True)
        except ValueError:
            continue
        if words:
            commands.append(left)
        left = ""
    assert not left, f"a quote is not closed: {left}"
    return commands


def words_of(line: str) -> list[str]:
    """Return the words of a command, without its comment."""
    return shlex.split(line, comments=True)


@dataclass
class Reader:
    """Somebody who types the blocks of a page, one after another, in a shell that stays in its folder."""

    folder: Path
    env: dict[str, str]
    #: Called with the folder after each command.
    after: Callable[[Path], None] = lambda _: None
    #: Gives a command, or a program, as it is run here.
    adapted: Callable[[str], str] = lambda text: text
    #: What each command printed, on both streams.
    printed: dict[str, str] = field(default_factory=dict)
    #: Seconds that each command took.
    took: dict[str, float] = field(default_factory=dict)

    def follow(self, block: Block) -> None:
        """Run a block, without the commands that were run before; each must end well, or with the exit code in its comment."""
        if block.language == "python":
            if block.text not in self.printed:
                self._run(block.text, "python", "-c", self.adapted(block.text))
                self.after(self.folder)
            return
        for line in lines_of(block.text):
            words = words_of(line)
            if line in self.printed:
                continue
            if words[0] == "cd" and len(words) == 2:
                self.folder /= words[1]
                self.printed[line] = ""
            elif words[0] == "adapterctl" and not {"&&", "||", "|", ">", ";"} & {*words}:
                self._run(line, *words_of(self.adapted(line)))
            else:
                self._run(line, "bash", "-euo", "pipefail", "-c", f"{self.adapted(line)}\npwd > .left")
                left = self.folder / ".left"
                self.folder = Path(left.read_text().strip()) if left.exists() else self.folder
            self.after(self.folder)

    def _run(self, shown: str, *command: str) -> None:
        started = time.monotonic()
        if command[0] == "bash":
            done = processes.finished(*command, env=self.env, cwd=self.folder)
        else:
            done = processes.run(*command, env=self.env, cwd=self.folder)
        expected = re.search(r"#.*\bexit (\d+)\s*$", shown) if command[0] != "python" else None
        status = int(expected[1]) if expected else 0
        assert done.returncode == status, f"{shown}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{shown}\n{done.stderr}"
        self.printed[shown] = done.stdout + done.stderr
        self.took[shown] = time.monotonic() - started
