"""Draw what commands show on a terminal, and the curve of a training, for the documentation: python docs/images/make.py

Each picture is the output of a real command, in a terminal of 88 columns or into a file, over the tiny base of
`examples/tiny/make.py`.
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


#: A training that learns its few rows by heart.
BY_HEART = [
    "--method",
    "lora",
    "--epochs",
    "30",
    "--batch-size",
    "4",
    "--grad-accum",
    "2",
    "--lr",
    "3e-3",
    "--warmup-ratio",
    "0.1",
]


#: The same rows at a rate under which it diverges.
TOO_FAST = ["--method", "lora", "--epochs", "30", "--batch-size", "4", "--grad-accum", "2", "--lr", "0.3"]


#: Three ranks, of which the largest learns the rows.
RANKS = [
    "--rank",
    "1,4,16",
    "--seeds",
    "2",
    "--method",
    "lora",
    "--targets",
    "all-linear",
    "--lr",
    "1e-2",
    "--batch-size",
    "8",
    "--grad-accum",
    "1",
]
RANKS += ["--max-steps", "60", "--eval-every", "5"]


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


def draw(text: str, title: str, path: Path, *, columns: int = COLUMNS) -> None:
    """Write text with its colours as SVG, which loads nothing from elsewhere."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip()))
    plain = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.S).replace(
        "Fira Code", "DejaVu Sans Mono"
    )
    path.write_text(console.export_svg(title=title, code_format=plain), encoding="utf-8")


def advised(adapterctl: str, folder: Path, path: Path) -> None:
    """Record a training at a rate that is far too high, what its numbers advise, and how it is run again."""
    environment = {**os.environ, "HOME": str(folder), "ADAPTERCTL_URL": f"local:{folder / 'advised'}"}
    said: list[str] = []

    def run(*command: str, last: int) -> str:
        said.append(f"\x1b[1m$ adapterctl {' '.join(command)}\x1b[0m")
        done = subprocess.run(
            [adapterctl, *command],
            cwd=folder,
            env=environment,
            text=True,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
        )
        if done.returncode:
            raise SystemExit(done.stdout)
        lines = done.stdout.rstrip().splitlines()
        said.extend([*(["…"] if len(lines) > last else []), *lines[-last:], ""])
        return done.stdout

    rows = ["--data", "tiny/train.jsonl", "--eval-data", "tiny/heldout.jsonl"]
    run("train", "code-review", "--base", "./tiny-llama", *rows, *TOO_FAST, last=8)
    (job,) = json.loads(
        subprocess.check_output([adapterctl, "jobs", "list", "--format", "json"], cwd=folder, env=environment)
    )
    again = run("jobs", "retry", job["id"], "--advice", last=3)
    run("jobs", "watch", re.findall(r"[0-9a-f]{12}", again)[-1], last=7)
    draw("\n".join(said), "adapterctl jobs retry --advice", path)


def train_and_plot(adapterctl: str, folder: Path, path: Path) -> None:
    """Train over the tiny base, and write the curve of what was made."""
    environment = {**os.environ, "HOME": str(folder), "ADAPTERCTL_URL": f"local:{folder / 'registry'}"}
    rows = ["--data", "tiny/train.jsonl", "--eval-data", "tiny/heldout.jsonl"]
    train = ["train", "code-review", "--base", "./tiny-llama", *rows, *BY_HEART, "--format", "json"]
    job = json.loads(subprocess.check_output([adapterctl, *train], cwd=folder, env=environment))["job"]
    subprocess.run([adapterctl, "plot", job, "-o", str(path)], check=True, cwd=folder, env=environment)


def sweep_and_plot(adapterctl: str, folder: Path, path: Path) -> None:
    """Sweep over three ranks as docs/sweeps.md does, and draw it."""
    environment = {**os.environ, "HOME": str(folder), "ADAPTERCTL_URL": f"local:{folder / 'swept'}"}
    lines = (folder / "tiny" / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(lines[:24]))
    (folder / "held.jsonl").write_text("".join(lines[-24:]))
    rows = ["--data", "few.jsonl", "--eval-data", "held.jsonl", "--test-data", "tiny/heldout.jsonl"]
    command = ["sweep", "reviewer", "--base", "./tiny-llama", *rows, *RANKS, "--format", "json"]
    swept = json.loads(subprocess.check_output([adapterctl, *command], cwd=folder, env=environment))["id"]
    subprocess.run([adapterctl, "plot", f"sweep:{swept}", "-o", str(path)], check=True, cwd=folder, env=environment)


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
        train_and_plot(adapterctl, folder, HERE / "curve.svg")
        sweep_and_plot(adapterctl, folder, HERE / "sweep.svg")
        advised(adapterctl, folder, HERE / "advice.svg")
        draw(
            shown([adapterctl, *arguments], folder),
            f"adapterctl {' '.join(arguments)}",
            HERE / "data-preview.svg",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
