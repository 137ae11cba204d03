"""Record commands as they run in a terminal, and draw the recording for the README.

    python docs/images/recording.py record CAST FOLDER COMMAND…
    python docs/images/recording.py draw CAST SVG

CAST is written in asciicast's second version, with the true times. Each COMMAND is one line of a shell, run in FOLDER, one after
another in one recording. Drawn is what is on the screen at moments that are equally far apart, in SECONDS in all, by termtosvg-ng,
which needs an environment of its own: `pip install pexpect termtosvg-ng`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

COLUMNS, LINES = 88, 19
#: Seconds after which a command counts as hanging.
TIMEOUT_S = 3600
#: What a drawing takes in all; how long its last picture stays of that; how many pictures of a second are drawn.
SECONDS, LAST_S, RATE = 20.0, 6.0, 8
MOST_BYTES = 300_000


def record(cast: Path, folder: Path, *commands: str) -> None:
    """Run the commands, and write what they show and when."""
    with cast.open("w", encoding="utf-8") as file:
        print(json.dumps({"version": 2, "width": COLUMNS, "height": LINES}), file=file)
        started = time.monotonic()
        for command in commands:
            _write(file, time.monotonic() - started, f"\x1b[1m$ {command}\x1b[0m\r\n")
            _record(file, started, command, folder)


def _record(file: TextIO, started: float, command: str, folder: Path) -> None:
    import pexpect

    program, *arguments = shlex.split(command)
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    child = pexpect.spawn(
        program,
        arguments,
        cwd=folder,
        env=environment,
        dimensions=(LINES, COLUMNS),
        encoding="utf-8",
        timeout=TIMEOUT_S,
    )
    while True:
        try:
            shown = child.read_nonblocking(65536, timeout=TIMEOUT_S)
        except pexpect.EOF:
            break
        _write(file, time.monotonic() - started, shown)
    child.close()
    if child.exitstatus != 0:
        raise SystemExit(f"{command} ended with {child.exitstatus}")


def _write(file: TextIO, at_s: float, shown: str) -> None:
    print(json.dumps([round(at_s, 4), "o", shown]), file=file, flush=True)


def draw(cast: Path, svg: Path) -> None:
    """Draw a recording, faster than it was."""
    header, *lines = cast.read_text(encoding="utf-8").splitlines()
    events: list[list[Any]] = [json.loads(line) for line in lines]
    whole, pictures = events[-1][0], int((SECONDS - LAST_S) * RATE)
    shown = [""] * pictures
    for at_s, _, text in events:
        shown[min(int(at_s / whole * pictures), pictures - 1)] += text
    # Its first second is for reading the command.
    squeezed = [
        [0.0, "o", lines and events[0][2]],
        *([1.0 + at / RATE, "o", text] for at, text in enumerate(shown) if text),
    ]
    squeezed[1][2] = squeezed[1][2].removeprefix(events[0][2])
    screen = json.loads(header) | {"height": LINES, "theme": None}
    with tempfile.NamedTemporaryFile("w", suffix=".cast", encoding="utf-8") as file:
        del screen["theme"]
        file.write("\n".join(json.dumps(each) for each in (screen, *squeezed)) + "\n")
        file.flush()
        program = Path(sys.executable).parent / "termtosvg-ng"
        delay = ["-D", str(int((LAST_S - 1) * 1000)), "-t", "solarized_dark"]
        subprocess.run([program, "render", file.name, str(svg), *delay], check=True)
    assert svg.stat().st_size <= MOST_BYTES, svg.stat().st_size


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "record":
        record(Path(rest[0]), Path(rest[1]), *rest[2:])
    else:
        draw(*map(Path, rest))
