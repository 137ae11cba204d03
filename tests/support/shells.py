"""A shell at a terminal, in which somebody presses keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

from support import processes

#: Where each shell reads what somebody wants in every session, below the home folder.
STARTS = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/adapterctl.fish"}
_PROMPT = "ready>"
_SETTINGS = {
    "bash": f"PS1='{_PROMPT}'; bind 'set bell-style none' 'set enable-bracketed-paste off'\n",
    "zsh": f"PROMPT='{_PROMPT}'; unsetopt zle_bracketed_paste prompt_sp\n",
    "fish": "",
}
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?<>=]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])")
_QUIET_S = 0.4
#: Longer than a busy machine takes to start a shell, or a command in it.
_PATIENCE_S = 120
#: The program that a shell asks for names, as a text: one that waits for an answer as long as a busy machine needs. How long it
#: waits otherwise has tests of its own.
PATIENT = """
import sys
from sdk.cli import main
from sdk.cli.completing import sources
sources._SERVER_S = sources._ALL_S = 60.0
sys.argv[:] = ["adapterctl"]
main()
"""


def is_here(shell: str) -> bool:
    """Whether this machine has a shell."""
    return shutil.which(shell) is not None


class Shell:
    """A shell of somebody who has put the completion script where its page says."""

    def __init__(self, name: str, home: Path, env: Mapping[str, str]) -> None:
        self.env = {**env, "HOME": str(home), "TERM": "xterm", "LANG": "C.UTF-8"}
        self.env["PATH"] = f"{processes.BIN}:{os.environ['PATH']}"
        for variable in ("ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "BASH_ENV", "ENV"):
            self.env.pop(variable, None)
        script = processes.finished(processes.BIN / "adapterctl", "completion", name, env=self.env, check=True).stdout
        start = home / STARTS[name]
        start.parent.mkdir(parents=True, exist_ok=True)
        start.write_text(_SETTINGS[name] + script)
        if name == "fish":
            prompt = home / ".config/fish/functions/fish_prompt.fish"
            prompt.parent.mkdir(parents=True, exist_ok=True)
            prompt.write_text(f"function fish_prompt; echo -n '{_PROMPT}'; end\n")
            (home / ".config/fish/functions/fish_greeting.fish").write_text("function fish_greeting; end\n")
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._process = subprocess.Popen(
            [name, "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self.env,
            cwd=home,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        try:
            self._until(_PROMPT)
        except AssertionError:
            self.__exit__()
            raise

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def press(self, keys: str, until: str) -> str:
        """Press keys; return what is shown then, once a text is there. Raises AssertionError if it never is."""
        os.write(self._master, keys.encode())
        return self._until(until)

    def clear(self) -> None:
        """Empty the line."""
        os.write(self._master, b"\x15")
        self._until("")

    def _until(self, text: str) -> str:
        """Read until a text was shown, and then nothing for a moment."""
        shown, ends = "", time.monotonic() + _PATIENCE_S
        while time.monotonic() < ends:
            ready, _, _ = select.select([self._master], [], [], _QUIET_S)
            if ready:
                raw = os.read(self._master, 65536)
                # fish asks the terminal what it is, and waits for an answer.
                if b"\x1b[0c" in raw or b"\x1b[c" in raw:
                    os.write(self._master, b"\x1b[?6c")
                shown += raw.decode(errors="replace")
            elif text in _ESCAPES.sub("", shown):
                return _ESCAPES.sub("", shown)
        raise AssertionError(f"no {text!r} in {shown!r}")
