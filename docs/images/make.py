"""Draw what commands show on a terminal, for the documentation: python docs/images/make.py

Each picture is the output of a real command in a terminal of 88 columns, over the tiny base of `examples/tiny/make.py`.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
COLUMNS = 88
#: A conversation of two turns, of which the first answer is not to be learnt.
CHAT = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Five.", "weight": 0},
    {"role": "user", "content": "Are you sure?"},
    {"role": "assistant", "content": "Four."},
]


def shown(command: list[str], folder: Path) -> str:
    """Run a command in a terminal; return what it wrote there, colours and all."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "HOME": str(folder)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=writer, stdout=writer, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    parts = []
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:
            # The terminal has nobody left who writes.
            break
        if not part:
            break
        parts.append(part)
    if process.wait() != 0:
        raise SystemExit(f"{command} failed")
    return b"".join(parts).decode().replace("\r\n", "\n")


def draw(text: str, title: str, path: Path) -> None:
    """Write text with its colours as SVG, which loads nothing from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip()))
    plain = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.S).replace(
        "Fira Code", "DejaVu Sans Mono"
    )
    path.write_text(console.export_svg(title=title, code_format=plain), encoding="utf-8")


def main() -> int:
    """Draw all pictures."""
    adapterctl = str(Path(sys.executable).parent / "adapterctl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [sys.executable, str(HERE.parents[1] / "examples" / "tiny" / "make.py"), str(folder / "tiny")]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        (base,) = {path.parent for path in (folder / "tiny").rglob("config.json")}
        base.rename(folder / "tiny-llama")
        (folder / "chat.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n")
        arguments = ["data", "preview", "chat.jsonl", "--base", "./tiny-llama"]
        draw(
            shown([adapterctl, *arguments], folder),
            f"adapterctl {' '.join(arguments)}",
            HERE / "data-preview.svg",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
