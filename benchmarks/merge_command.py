"""`adapterctl merge REF -o DIR` over a registry in a folder, whole, beside PEFT's own script and `cp -r` of the model.

    python -m benchmarks.merge_command BASE ADAPTER [ROUNDS]

BASE and ADAPTER are folders. Each way is a process of its own, from its start until all is on the disk (`sync`), in turn;
medians. Every merge begins with a registry and a cache that have never seen the merged model; the cache remembers the
base's digests since it was added, as any does. PEFT's script loads, merges,
and saves model and tokenizer.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SCRIPT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}


def run(base: Path, adapter: Path, *, rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of each way."""
    with tempfile.TemporaryDirectory(dir=base.resolve().parent) as folder:
        at = Path(folder)
        program = str(Path(sys.executable).with_name("adapterctl"))
        environment = {
            **os.environ,
            "ADAPTERCTL_URL": f"local:{at / 'home'}",
            "ADAPTERCTL_CACHE": str(at / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        subprocess.run([program, "base", "add", str(base), "--id", "base"], env=environment, **_QUIET)
        subprocess.run(
            [program, "push", str(adapter), "a", "--base", "base", "--quantized", "none"], env=environment, **_QUIET
        )
        _until_idle(at / "home")
        for name in ("home", "cache"):
            shutil.copytree(at / name, at / f"prepared-{name}")

        def merge(*options: str) -> list[str]:
            return [program, "merge", "a@v1", "-o", str(at / "out"), *options]

        ways: Mapping[str, list[str]] = {
            "cp": ["cp", "-r", str(base), str(at / "out")],
            "peft": [sys.executable, "-c", _SCRIPT, str(base), str(adapter), str(at / "out")],
            "merge": merge(),
            "merge --no-measure": merge("--no-measure"),
        }
        return _medians(ways, lambda: _anew(at), environment, rounds)


def _medians(
    ways: Mapping[str, list[str]], anew: Callable[[], None], environment: Mapping[str, str], rounds: int
) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, command in ways.items():
            anew()
            started = time.perf_counter()
            subprocess.run(command, env=dict(environment), **_QUIET)
            subprocess.run(["sync"], check=True)
            found[name].append(time.perf_counter() - started)
            print(f"{number} {name} {found[name][-1]:.2f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _anew(at: Path) -> None:
    _until_idle(at / "home")
    for name in ("out", "home", "cache"):
        shutil.rmtree(at / name, ignore_errors=True)
    for name in ("home", "cache"):
        shutil.copytree(at / f"prepared-{name}", at / name)
    subprocess.run(["sync"], check=True)


def _until_idle(home: Path) -> None:
    """Wait until the runner of a home has ended."""
    from sdk.file_locks import locked

    if home.exists():
        with locked(home / "runner.lock", timeout_s=60):
            pass


def main() -> None:
    """Measure, and print a table."""
    base, adapter = (Path(word).resolve() for word in sys.argv[1:3])
    found = run(base, adapter, rounds=int(sys.argv[3]) if len(sys.argv) > 3 else 5)
    for name in ("merge", "merge --no-measure"):
        own = found[name]
        print(
            f"| `{name}` | {own:.2f} | {found['cp']:.2f} | {own / found['cp']:.1f} × `cp` | "
            f"{found['peft']:.2f} | {found['peft'] / own:.2f} × PEFT's speed |"
        )


if __name__ == "__main__":
    main()
