"""Record an alias that moves in front of callers, for docs/serving.md: python docs/images/serving.py

Two versions are trained over the tiny base of `examples/tiny/make.py`; a third is pushed with the record of other weights. `adapterctl serve` runs in one
terminal; its lines are shown between the commands of another one, as they came.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from make import HERE, draw

#: A terminal's width, and what stands before each line of the other one.
COLUMNS, BAR = 100, "\x1b[36m│\x1b[0m "
PORT, KEY = "8011", "the-key-of-the-recording-0123"
TRAINED = {
    "one": ["--lr", "3e-3", "--max-steps", "60"],
    "two": ["--lr", "5e-3", "--max-steps", "60", "--seed", "1"],
}
#: What goes wrong elsewhere: weights are pushed that are not those which were measured.
HALVED = """\
import sys
from safetensors.torch import load_file, save_file

path = sys.argv[1] + "/adapter_model.safetensors"
weights = load_file(path)
save_file({k: v * 0.5 if "lora_B" in k else v for k, v in weights.items()}, path, metadata={"format": "pt"})
"""
HAND_IN = """\
import sdk
from sdk.api import served_probes
from sdk.schemas.serving import ServedProbeRecord

client = sdk.connect()
measured = served_probes.get(client.transport, "code-review@v2")
pushed = client.get("code-review@v3")
given = {"adapter": "code-review", "number": 3, "digest": pushed.digest, "base": measured.base, "probe": measured.probe}
served_probes.record(client.transport, ServedProbeRecord(**given))
"""


class Terminal:
    """A program that runs on a terminal of its own, and the lines that it has written."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        reader, writer = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=writer, stdout=writer, stderr=writer
        )
        os.close(writer)
        self._reader, self._written, self._shown = reader, b"", 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while part := os.read(self._reader, 65536):
                self._written += part
        except OSError:
            # The program has ended.
            return

    def lines(self, *, until: str, within_s: float = 120.0) -> list[str]:
        """Return what it wrote since the last call, once that has a text in it."""
        deadline_s = time.monotonic() + within_s
        while True:
            text = self._written.decode(errors="replace").replace("\r\n", "\n")
            new = text[self._shown :]
            if until in new and new.endswith("\n"):
                self._shown = len(text)
                return new.rstrip("\n").split("\n")
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                raise SystemExit(f"the gateway doesn't say {until!r} but:\n{text}")
            time.sleep(0.05)


def main() -> int:
    """Draw the recording."""
    adapterctl = str(Path(sys.executable).parent / "adapterctl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, str(HERE.parents[1] / "examples" / "tiny" / "make.py"), str(folder / "tiny")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (base,) = {path.parent for path in (folder / "tiny").rglob("config.json")}
        base.rename(folder / "tiny-llama")
        environment = {
            **os.environ,
            "HOME": str(folder),
            "ADAPTERCTL_URL": f"local:{folder / 'registry'}",
            "ADAPTERCTL_CACHE": str(folder / "cache"),
            "COLUMNS": str(COLUMNS - 2),
            "TERM": "xterm-256color",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KEY": KEY,
        }
        for options in TRAINED.values():
            subprocess.run(
                [adapterctl, "train", "code-review", "--base", "./tiny-llama", "--data", "tiny/train.jsonl", *options],
                check=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        subprocess.run(
            [adapterctl, "pull", "code-review@v2", "-o", "elsewhere"], check=True, cwd=folder, env=environment
        )
        subprocess.run([sys.executable, "-c", HALVED, "elsewhere"], check=True, cwd=folder)
        (folder / "hand_in.py").write_text(HAND_IN)
        (folder / "key").write_text(KEY + "\n")
        draw("\n".join(recorded(folder, environment)), "adapterctl serve", HERE / "serving.svg", columns=COLUMNS)
    return 0


def recorded(folder: Path, environment: dict[str, str]) -> list[str]:
    """Return what both terminals show."""
    shown: list[str] = []

    def shell(command: str) -> None:
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{command} failed: {done.stdout}{done.stderr}")
        output = re.sub(r"\s*\r", "", f"{done.stdout}{done.stderr}").strip()
        shown.extend([f"\x1b[1m$ {command}\x1b[0m", *(output.split("\n") if output else []), ""])

    shell("adapterctl alias set code-review production v1")
    serve = ["adapterctl", "serve", "code-review@production", "--port", PORT, "--key-file", "key"]
    gateway = Terminal(serve, folder, environment)

    def other(until: str) -> None:
        shown.extend([*(BAR + line for line in gateway.lines(until=until)), ""])

    def ask() -> None:
        shell(
            f'curl -s -D - http://127.0.0.1:{PORT}/v1/completions -H "Authorization: Bearer $KEY" --json '
            '\'{"model": "code-review@production", "prompt": "def add"}\' | grep -i x-adapterctl'
        )

    try:
        shown.append(f"{BAR}\x1b[1m$ {' '.join(serve)}\x1b[0m")
        other(f"http://127.0.0.1:{PORT}/v1")
        ask()
        shell("adapterctl alias set code-review production v2")
        other("→")
        ask()
        shell("adapterctl push ./elsewhere code-review --base ./tiny-llama")
        shell("python hand_in.py  # the record of its trainer, who measured other weights")
        shell("adapterctl alias set code-review production v3")
        other("is refused")
        ask()
        shell("adapterctl alias set code-review production v1")
        other("→")
        ask()
    finally:
        gateway.process.terminate()
        gateway.process.wait(30)
    return shown


if __name__ == "__main__":
    sys.exit(main())
