"""Draw what a base and an adapter over it answer to the same rows, for docs/quickstart.md: python docs/images/answers.py FOLDER

FOLDER is that of `adapterctl example docstrings`, in which `docstrings@v1` was trained as the quickstart says; ADAPTERCTL_URL names
its registry. Shown are the first held-out rows whose function is short, however good the answers are.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from make import HERE, draw
from rich.console import Console
from rich.table import Table
from rich.text import Text

BASE, ADAPTER = "base:SmolLM2-135M-Instruct", "docstrings@v1"
ROWS, LONGEST, MOST_TOKENS, COLUMNS = 5, 200, 40, 120


def main(folder: Path) -> None:
    """Ask both, and draw the table."""
    rows = [json.loads(line) for line in (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row["prompt"]) <= LONGEST][:ROWS]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        answers = [_answers(ref, Path(file.name), folder) for ref in (BASE, ADAPTER)]
    table = Table(show_lines=True, expand=True, border_style="bright_black")
    for title, ratio in (("a held-out function", 5), (BASE, 6), (ADAPTER, 4)):
        table.add_column(title, ratio=ratio)
    for row, *said in zip(rows, *answers, strict=True):
        code = row["prompt"].partition("\n\n")[2].removesuffix("\n\nDocstring:\n")
        table.add_row(Text(code), Text(said[0], "red"), Text(said[1], "green"))
    console = Console(file=io.StringIO(), width=COLUMNS, force_terminal=True, color_system="standard")
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    draw(shown, "the same rows, answered by base and adapter", HERE / "base-and-adapter.svg", columns=COLUMNS)


def _answers(ref: str, rows: Path, folder: Path) -> list[str]:
    command = [
        str(Path(sys.executable).parent / "adapterctl"),
        "generate",
        ref,
        "--data",
        str(rows),
        "--format",
        "json",
    ]
    command += ["--max-new-tokens", str(MOST_TOKENS), "--plain"]
    given = json.loads(subprocess.check_output(command, cwd=folder))
    return [each["completion"].strip() + ("" if each["stop"] == "stop" else " …") for each in given]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
